import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from langflow_sluice.canvas.catalog import Catalog

    CATALOG = Catalog()
    for node_type in (
        "ChatInput",
        "ext:openai:OpenAIModelComponent@official",
        "ext:pgvector:PGVectorStoreComponent@official",
    ):
        assert node_type in CATALOG

NODE_SOURCE = """
from lfx.custom.custom_component.component import Component
from lfx.io import HandleInput, Output, SecretStrInput, StrInput
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame


class EachRowComponent(Component):
    display_name = "Each Row"
    inputs = [
        HandleInput(name="rows", display_name="Rows", input_types=["DataFrame"]),
        StrInput(name="comment", display_name="Comment", advanced=True),
        SecretStrInput(name="token", display_name="Token"),
    ]
    outputs = [
        Output(name="item", display_name="Item", method="one", allows_loop=True, loop_types=["Message"],
               group_outputs=True),
        Output(name="done", display_name="Done", method="all", group_outputs=True),
    ]

    def one(self) -> Data:
        return Data(data={})

    def all(self) -> DataFrame:
        return DataFrame([])
"""


@pytest.fixture
def catalog():
    """The installed nodes; templates are copied on each look-up, so one catalogue serves all tests."""
    return CATALOG


@pytest.fixture
def extension(tmp_path):
    """A throw-away extension with one node that has a body, type ``ext:throwaway:EachRowComponent@official``."""
    root = tmp_path / "extension"
    manifest = (Path(__file__).parents[2] / "components" / "extension.json").read_text("utf-8")
    (root / "throwaway").mkdir(parents=True)
    (root / "throwaway" / "each_row.py").write_text(NODE_SOURCE, "utf-8")
    (root / "extension.json").write_text(
        manifest.replace('"langflow-sluice"', '"throwaway-pack"').replace('"sluice"', '"throwaway"'), "utf-8"
    )
    return root
