from importlib import metadata

import pytest
from lfx.interface import components

from langflow_sluice.canvas.catalog import Catalog, extension_type
from langflow_sluice.errors import InvalidInput

OPENAI = "ext:openai:OpenAIModelComponent@official"
PGVECTOR = "ext:pgvector:PGVectorStoreComponent@official"
EACH_ROW = "ext:throwaway:EachRowComponent@official"


async def test_a_node_of_an_installed_extension_is_what_langflows_own_palette_holds(catalog, monkeypatch):
    load = components.load_installed_extensions
    monkeypatch.setattr(components, "load_installed_extensions", lambda: load([metadata.distribution("lfx-openai")]))
    for other in ("load_seed_extensions", "load_dev_extensions"):
        monkeypatch.setattr(components, other, list)
    monkeypatch.setattr(components, "load_lfx_bundles_extensions", lambda **_: [])
    monkeypatch.setattr(components, "discover_inline_bundles", lambda _: [])
    monkeypatch.setattr(components, "_components_path_extension_paths", lambda _: [])

    palette = await components.import_extension_components(None)

    assert catalog.node(OPENAI) == palette["openai"][OPENAI]


async def test_a_stock_node_is_what_langflows_own_palette_holds_and_can_be_asked_for_on_a_running_loop(catalog):
    stock = (await components.import_langflow_components(None))["components"]

    fresh = Catalog()

    assert fresh.node("LoopComponent") == stock["flow_controls"]["LoopComponent"] == catalog.node("LoopComponent")


def test_a_node_of_a_bundle_folder_is_found_without_importing_the_other_bundles(catalog):
    node = catalog.node(PGVECTOR)

    assert node["namespaced_id"] == PGVECTOR
    assert "class PGVectorStoreComponent" in node["template"]["code"]["value"]


def test_a_node_of_an_extension_on_disk_carries_its_source_and_the_type_it_will_have_once_installed(extension):
    node = Catalog([extension]).node(extension_type("throwaway", "EachRowComponent"))

    assert node["namespaced_id"] == EACH_ROW
    assert node["template"]["code"]["value"].strip() == (extension / "throwaway" / "each_row.py").read_text().strip()
    assert [output["name"] for output in node["outputs"]] == ["item", "done"]


def test_an_unknown_node_is_refused_with_what_the_loader_complained_of(extension):
    (extension / "throwaway" / "broken.py").write_text("raise RuntimeError('out of order')\n")

    with pytest.raises(InvalidInput, match="out of order"):
        Catalog([extension]).node("ext:throwaway:BrokenComponent@official")
    assert "ext:nowhere:AnyComponent@official" not in Catalog([extension])


def test_changing_a_template_leaves_the_catalogue_as_it_was(catalog):
    catalog.node("ChatInput")["template"]["input_value"]["value"] = "changed"

    assert catalog.node("ChatInput")["template"]["input_value"]["value"] == ""
