import json

import pytest

from langflow_sluice.canvas.build import Flow
from langflow_sluice.canvas.catalog import Catalog
from langflow_sluice.errors import InvalidInput

OPENAI = "ext:openai:OpenAIModelComponent@official"
EACH_ROW = "ext:throwaway:EachRowComponent@official"


@pytest.fixture
def flow(catalog):
    return Flow(catalog, "trial", name="Trial", description="A trial.")


def loop_flow(catalog):
    flow = Flow(catalog, "loop", name="Loop", description="A loop.")
    text, split = flow.add("ChatInput", "in"), flow.add("SplitText", "split")
    loop, parser = flow.add("LoopComponent", "loop"), flow.add("ParserComponent", "parse")
    flow.connect(text, "message", split, "data_inputs")
    flow.connect(split, "dataframe", loop, "data")
    flow.connect(loop, "item", parser, "input_data")
    flow.connect(parser, "parsed_text", loop, "item")
    flow.arrange([[text], [split], [loop], [None, parser]])
    return flow


def test_an_edge_into_an_input_is_written_as_the_canvas_writes_it(catalog):
    edge = loop_flow(catalog).to_dict()["data"]["edges"][0]

    assert edge["data"] == {
        "sourceHandle": {"dataType": "ChatInput", "id": "ChatInput-in", "name": "message", "output_types": ["Message"]},
        "targetHandle": {
            "fieldName": "data_inputs",
            "id": "SplitText-split",
            "inputTypes": ["Data", "JSON", "DataFrame", "Table", "Message"],
            "type": "other",
        },
    }
    assert (
        edge["sourceHandle"]
        == "{œdataTypeœ:œChatInputœ,œidœ:œChatInput-inœ,œnameœ:œmessageœ,œoutput_typesœ:[œMessageœ]}"
    )
    assert json.loads(edge["targetHandle"].replace("œ", '"')) == edge["data"]["targetHandle"]
    assert edge["id"] == f"reactflow__edge-ChatInput-in{edge['sourceHandle']}-SplitText-split{edge['targetHandle']}"


def test_an_edge_that_closes_a_loop_enters_the_output_it_left(catalog):
    back = loop_flow(catalog).to_dict()["data"]["edges"][-1]

    assert back["data"]["targetHandle"] == {
        "dataType": "LoopComponent",
        "id": "LoopComponent-loop",
        "name": "item",
        "output_types": ["Data", "Message"],
    }


def test_langflow_builds_a_graph_from_a_flow_with_a_loop(catalog):
    from lfx.graph.graph.base import Graph

    graph = Graph.from_payload(loop_flow(catalog).to_dict()["data"])

    assert {(edge.source_id, edge.target_id) for edge in graph.edges} >= {
        ("ParserComponent-parse", "LoopComponent-loop"),
        ("LoopComponent-loop", "ParserComponent-parse"),
    }


def test_a_type_that_may_not_come_back_into_a_loop_is_refused(extension):
    flow = Flow(Catalog([extension]), "loop", name="Loop", description="A loop.")
    rows, split = flow.add(EACH_ROW, "rows"), flow.add("SplitText", "split")
    flow.connect(rows, "item", split, "data_inputs")

    with pytest.raises(
        InvalidInput, match=r"Split Text .*dataframe -> Each Row .*item is 'Table': item takes JSON, Message"
    ):
        flow.connect(split, "dataframe", rows, "item")


def test_types_that_do_not_fit_are_refused_naming_node_output_and_input(flow):
    text, parser = flow.add("ChatInput", "in"), flow.add("ParserComponent", "parse")

    with pytest.raises(
        InvalidInput,
        match=r"Chat Input \(ChatInput-in\)\.message -> Parser \(ParserComponent-parse\)\.input_data is 'Message'",
    ):
        flow.connect(text, "message", parser, "input_data")


def test_old_and_new_names_of_a_type_fit_each_other(extension):
    flow = Flow(Catalog([extension]), "names", name="Names", description="Names.")
    split, rows = flow.add("SplitText", "split"), flow.add(EACH_ROW, "rows")

    flow.connect(split, "dataframe", rows, "rows")  # a Table into an input that takes DataFrame


@pytest.mark.parametrize(("output", "entry"), [("nothing", "input_value"), ("message", "nothing"), ("message", "code")])
def test_an_output_or_input_that_does_not_exist_is_refused(flow, output, entry):
    text, model = flow.add("ChatInput", "in"), flow.add(OPENAI, "llm")

    with pytest.raises(InvalidInput, match=r"there is no such (in|out)put\. Use one of"):
        flow.connect(text, output, model, entry)


def test_an_input_in_the_advanced_settings_takes_no_edge_until_it_is_shown(flow):
    text, request = flow.add("SplitText", "in"), flow.add("APIRequest", "a")
    convert = flow.add("TypeConverterComponent", "c", values={"output_type": "JSON"})
    with pytest.raises(InvalidInput, match="shown="):
        flow.connect(convert, "data_output", request, "query_params")

    flow.connect(text, "dataframe", convert, "input_data")
    flow.connect(convert, "data_output", flow.add("APIRequest", "b", shown=["query_params"]), "query_params")


def test_a_model_field_takes_an_edge_once_it_is_told_to_connect(flow):
    model = flow.add(OPENAI, "llm")
    with pytest.raises(InvalidInput, match="connect_other_models"):
        flow.connect(model, "model_output", flow.add("BatchRunComponent", "a"), "model")

    told = flow.add("BatchRunComponent", "b", values={"model": "connect_other_models"})
    flow.connect(model, "model_output", told, "model")


def test_an_input_for_one_edge_refuses_a_second_one(flow):
    first, second, model = flow.add("ChatInput", "a"), flow.add("ChatInput", "b"), flow.add(OPENAI, "llm")
    flow.connect(first, "message", model, "input_value")

    with pytest.raises(InvalidInput, match="takes one edge"):
        flow.connect(second, "message", model, "input_value")


def test_a_node_that_shows_one_of_its_outputs_offers_that_one_only(flow):
    model, batch = flow.add(OPENAI, "llm"), flow.add("BatchRunComponent", "b", values={"model": "connect_other_models"})
    output = flow.add("ChatOutput", "out")
    flow.connect(model, "model_output", batch, "model")

    with pytest.raises(InvalidInput, match="model_output is connected already"):
        flow.connect(model, "text_output", output, "input_value")
    flow.arrange([[model], [batch], [output]])
    assert flow.to_dict()["data"]["nodes"][0]["data"]["selected_output"] == "model_output"


@pytest.mark.parametrize("value", ["sk-canary-0123456789abcdef", "CANARY_BUT_A_VALUE"])
def test_a_password_field_refuses_a_value_and_does_not_repeat_it(flow, value):
    with pytest.raises(InvalidInput, match="global variable") as caught:
        flow.add(OPENAI, "llm", values={"api_key": value})

    assert value not in str(caught.value)


@pytest.mark.parametrize("value", ["sk-canary-0123456789abcdef", "postgresql://me:canary@db/x"])
def test_a_secret_passed_for_a_variables_name_or_into_any_field_is_refused_unrepeated(flow, value):
    for kwargs in ({"variables": {"api_key": value}}, {"values": {"openai_api_base": value}}):
        with pytest.raises(InvalidInput) as caught:
            flow.add(OPENAI, "llm", **kwargs)
        assert "canary" not in str(caught.value)


def test_a_variable_is_loaded_by_name(flow):
    field = flow.add(OPENAI, "llm", variables={"api_key": "MY_KEY"}).data["template"]["api_key"]

    assert (field["value"], field["load_from_db"]) == ("MY_KEY", True)


@pytest.mark.parametrize(
    ("node_type", "values"),
    [
        ("SplitText", {"chunk_size": "1"}),
        ("SplitText", {"chunk_size": True}),
        ("ParserComponent", {"mode": "Shout"}),
        ("ChatInput", {"no_such_field": "x"}),
    ],
)
def test_a_value_that_the_field_cannot_hold_is_refused(flow, node_type, values):
    with pytest.raises(InvalidInput, match=next(iter(values))):
        flow.add(node_type, "x", values=values)


def test_variables_of_a_prompt_become_inputs(flow):
    text = flow.add("ChatInput", "in")
    prompt = flow.add("Prompt Template", "p", values={"template": "Say {what} to {whom}"})

    flow.connect(text, "message", prompt, "what")

    assert prompt.data["custom_fields"] == {"template": ["what", "whom"]}


def test_a_field_that_the_node_watches_changes_the_node_as_on_the_canvas(flow):
    convert = flow.add("TypeConverterComponent", "c", values={"output_type": "Table"})
    parser = flow.add("ParserComponent", "p", values={"mode": "Stringify"})

    assert [output["name"] for output in convert.data["outputs"]] == ["dataframe_output"]
    assert parser.data["template"]["pattern"]["show"] is False


def test_an_output_of_several_types_offers_the_one_asked_for(flow):
    loop = flow.add("LoopComponent", "loop", output_types={"item": "JSON"})
    parser = flow.add("ParserComponent", "parse")
    flow.connect(loop, "item", parser, "input_data")
    flow.arrange([[loop], [parser]])

    assert flow.to_dict()["data"]["edges"][0]["data"]["sourceHandle"]["output_types"] == ["JSON"]
    with pytest.raises(InvalidInput, match="Use one of Data, JSON"):
        flow.add("LoopComponent", "other", output_types={"item": "Message"})


def test_the_same_program_gives_the_same_flow(catalog):
    assert loop_flow(catalog).to_dict() == loop_flow(Catalog()).to_dict()


def test_what_is_installed_beside_the_node_leaves_no_mark_in_the_flow(flow):
    flow.arrange([[flow.add(OPENAI, "llm")]])
    node = flow.to_dict()["data"]["nodes"][0]["data"]["node"]

    assert "extension_version" not in node
    assert "dependencies" not in node["metadata"]
    assert node["metadata"]["code_hash"]


def test_a_flow_whose_nodes_have_no_place_or_two_places_is_refused(flow):
    text = flow.add("ChatInput", "in")
    with pytest.raises(InvalidInput, match="arrange"):
        flow.to_dict()
    with pytest.raises(InvalidInput, match="exactly one place"):
        flow.arrange([[text], [text]])


def test_two_nodes_of_a_class_need_two_keys(flow):
    flow.add("ChatInput", "in")

    with pytest.raises(InvalidInput, match="already has a node ChatInput-in"):
        flow.add("ChatInput", "in")


def test_a_note_too_long_for_the_canvas_or_of_an_unknown_colour_is_refused(flow):
    with pytest.raises(InvalidInput, match="2500 characters"):
        flow.note("x" * 2501)
    with pytest.raises(InvalidInput, match="colour"):
        flow.note("x", colour="mauve")
