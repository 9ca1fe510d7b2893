from __future__ import annotations

import json
from typing import Any

import pytest

from langflow_sluice.simulator import Answer, ChatRequest, ToolCall, default_policy
from langflow_sluice.simulator.answers import fit_schema

CONTEXT = """The warehouse opens at seven in the morning. Returns are accepted within thirty days of delivery.
Invoices are sent on the first day of each month. The support line is closed on public holidays."""


def ask(*messages: tuple[str, str], **fields: Any) -> Answer:
    return default_policy(ChatRequest([{"role": role, "content": text} for role, text in messages], **fields))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("When are invoices sent?", "Invoices are sent on the first day of each month."),
        ("How many days do I have for a return?", "Returns are accepted within thirty days of delivery."),
        ("At what time does the warehouse open?", "The warehouse opens at seven in the morning."),
    ],
)
def test_a_question_about_the_context_gets_the_sentence_that_answers_it(question: str, answer: str) -> None:
    prompt = f"Answer the question with the context only.\n\nContext:\n{CONTEXT}\n\nQuestion: {question}\nAnswer:"
    assert ask(("user", prompt)).text == answer


def test_the_context_may_stand_in_the_system_message() -> None:
    assert ask(("system", CONTEXT), ("user", "When is the support line closed?")).text.startswith("The support line")


def test_a_text_without_a_question_is_echoed() -> None:
    assert ask(("system", CONTEXT), ("user", "Great product")).text == "Answer to: Great product"


def test_a_question_that_shares_no_word_with_the_context_is_echoed() -> None:
    assert ask(("system", CONTEXT), ("user", "Who painted Guernica?")).text == "Answer to: Who painted Guernica?"


def test_content_given_as_parts_is_read() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {}}]
    assert default_policy(ChatRequest([{"role": "user", "content": parts}])).text == "Answer to: one"


SEARCH = {
    "name": "search",
    "parameters": {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["query"],
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}


def test_the_first_tool_is_called_with_its_required_arguments() -> None:
    answer = ask(("user", "find sluices"), tools=[SEARCH, CLOCK])
    assert answer == Answer(tool_calls=(ToolCall("search", {"query": "find sluices"}),))


def test_the_tool_that_the_request_names_is_called() -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    assert ask(("user", "x"), tools=[SEARCH, CLOCK], tool_choice=choice).tool_calls[0].name == "clock"


def test_no_tool_is_called_when_the_request_forbids_it() -> None:
    assert ask(("user", "x"), tools=[SEARCH], tool_choice="none").text == "Answer to: x"


def test_a_tool_result_is_the_answer() -> None:
    assert ask(("user", "x"), ("assistant", ""), ("tool", "seven"), tools=[SEARCH]) == Answer("seven")


def test_a_tool_result_of_an_earlier_turn_is_not_the_answer() -> None:
    answer = ask(("user", "x"), ("tool", "seven"), ("assistant", "seven"), ("user", "y"), tools=[SEARCH])
    assert answer.tool_calls[0].arguments == {"query": "y"}


def test_a_json_schema_is_filled_with_values_that_fit() -> None:
    schema = {
        "$defs": {"Person": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
        "type": "object",
        "properties": {
            "people": {"type": "array", "items": {"$ref": "#/$defs/Person"}, "minItems": 2},
            "mood": {"enum": ["good", "bad"]},
            "age": {"type": "integer", "minimum": 18},
            "share": {"type": "number", "exclusiveMinimum": 0},
            "late": {"type": ["null", "boolean"]},
            "code": {"type": "string", "minLength": 12, "maxLength": 14},
            "when": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}]},
            "both": {
                "allOf": [
                    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                    {"properties": {"b": {"const": 3}}, "required": ["b"]},
                ]
            },
        },
    }
    format_ = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    assert json.loads(ask(("user", "hi"), response_format=format_).text) == {
        "people": [{"name": "Answer to: hi"}, {"name": "Answer to: hi"}],
        "mood": "good",
        "age": 18,
        "share": 1.0,
        "late": False,
        "code": "Answer to: hi",
        "when": "2024-01-01",
        "both": {"a": "Answer to: hi", "b": 3},
    }


def test_a_schema_that_refers_to_itself_ends() -> None:
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert json.dumps(fit_schema(tree, "x")).startswith('{"children": [{"children"')


def test_a_json_object_is_an_object() -> None:
    assert json.loads(ask(("user", "hi"), response_format={"type": "json_object"}).text) == {"answer": "Answer to: hi"}
