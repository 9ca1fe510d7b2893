"""The node Guarded Tools, with its source executed afresh for every run as Langflow does it."""

import asyncio
import copy
import warnings
from pathlib import Path

import pytest
from langchain_core.tools import StructuredTool
from pydantic import BaseModel

from langflow_sluice.errors import InvalidInput
from langflow_sluice.testing import isolated_guards
from langflow_sluice.tools.guarded_tools import guard_of_tool

with warnings.catch_warnings():
    # Importing Langflow's component stack warns of deprecations in LangChain's packages, which are not ours to mend.
    warnings.simplefilter("ignore")
    from lfx.base.tools.component_tool import ComponentToolkit, disambiguate_tool_names
    from lfx.custom.custom_component.component import Component
    from lfx.custom.eval import eval_custom_component_code
    from lfx.io import MessageTextInput, Output
    from lfx.schema.message import Message

SOURCE = (Path(__file__).parents[2] / "components" / "sluice" / "guarded_tools.py").read_text("utf-8")


@pytest.fixture(autouse=True)
def guards():
    with isolated_guards() as registry:
        yield registry


def executed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Langflow imports what the source names, and more
        return eval_custom_component_code(SOURCE)


class Query(BaseModel):
    query: str


def search(query: str) -> str:
    return f"found {query}"


def tool_named(name, **changes):
    return StructuredTool(**{"name": name, "description": "Searches.", "args_schema": Query, "func": search, **changes})


def build(*tools, **inputs):
    node = executed()(_id="tools-1", tools=list(tools), **inputs)
    return node.build_tools()


def test_two_executions_of_the_source_share_the_guard_of_each_tool():
    one, other = (build(tool_named("search"), tool_named("weather")) for _ in range(2))
    assert [tool.name for tool in one] == ["search", "weather"]
    assert guard_of_tool(one[0]) is guard_of_tool(other[0])
    assert guard_of_tool(one[1]) is guard_of_tool(other[1])
    assert guard_of_tool(one[0]) is not guard_of_tool(one[1])
    assert type(one[0]) is type(other[0])


def test_another_node_has_guards_of_its_own():
    [mine] = build(tool_named("search"))
    [other] = executed()(_id="tools-2", tools=[tool_named("search")]).build_tools()
    assert guard_of_tool(mine) is not guard_of_tool(other)


def test_with_a_name_all_tools_share_a_guard_that_is_their_users_own():
    one, other = build(tool_named("search"), tool_named("weather"), guard_name="tools", max_concurrency=3)
    [theirs] = executed()(
        _id="tools-1", _user_id="somebody", tools=[tool_named("search")], guard_name="tools"
    ).build_tools()
    guard = guard_of_tool(one)
    assert guard is guard_of_tool(other)
    assert (guard.name, guard.settings.max_concurrency) == ("tools", 3)
    assert guard_of_tool(theirs) is not guard


async def test_twenty_calls_over_two_runs_never_pass_the_limit():
    now, most = 0, 0

    async def work(query: str) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return f"found {query}"

    runs = [build(tool_named("search", func=None, coroutine=work), max_concurrency=2)[0] for _ in range(2)]
    answers = await asyncio.gather(
        *(copy.deepcopy(runs[number % 2]).ainvoke({"query": str(number)}) for number in range(20))
    )
    assert answers == [f"found {number}" for number in range(20)]
    assert most == 2


class LighthouseComponent(Component):
    display_name = "Lighthouse"
    description = "Tells of a lighthouse."
    inputs = [MessageTextInput(name="query", display_name="Query", tool_mode=True)]
    outputs = [
        Output(display_name="Text", name="text", method="text"),
        Output(display_name="Later", name="later", method="later"),
    ]

    def text(self) -> Message:
        if self.query == "none":
            msg = "there is none"
            raise LookupError(msg)
        return Message(text=f"found {self.query}")

    async def later(self) -> Message:
        return self.text()


async def test_tools_that_langflow_makes_of_a_node_work_and_keep_their_errors():
    inner = ComponentToolkit(component=LighthouseComponent(_id="lighthouse-1")).get_tools()
    tools = build(*inner)
    assert [(tool.name, tool.tags, tool.metadata) for tool in tools] == [
        (tool.name, tool.tags, tool.metadata) for tool in inner
    ]
    assert len(tools) == 2
    for tool in tools:
        call = {"type": "tool_call", "id": "1", "name": tool.name, "args": {"query": "Wychbourne"}}
        assert (await tool.ainvoke(call)).content == "found Wychbourne"
        answer = await tool.ainvoke({**call, "args": {"query": "none"}})
        assert (answer.content, answer.status) == ("there is none", "error")
        assert guard_of_tool(tool).statistics().admitted == 2


def test_tools_that_an_agent_renames_keep_their_guards():
    tools = build(tool_named("search"), tool_named("search"))
    renamed = disambiguate_tool_names(tools)
    assert len({tool.name for tool in renamed}) == 2
    assert [guard_of_tool(tool) for tool in renamed] == [guard_of_tool(tool) for tool in tools]
    assert [tool.name for tool in tools] == ["search", "search"]


def test_the_status_tells_of_each_guard():
    node = executed()(_id="tools-1", tools=[tool_named("search"), tool_named("weather")], max_concurrency=3)
    [search_tool, _] = node.build_tools()
    one, other = node.status.splitlines()
    assert one == f"Guard {guard_of_tool(search_tool).name}: 0 of 3 in flight, 0 waiting, 0 turned away so far."
    assert "weather" in other


def test_a_single_tool_and_none_at_all_are_taken():
    assert [tool.name for tool in executed()(_id="tools-1", tools=tool_named("search")).build_tools()] == ["search"]
    node = executed()(_id="tools-1", tools=[])
    assert (node.build_tools(), node.status) == ([], "No tools.")


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"tool_timeout": -1}, "tool_timeout is -1"),
        ({"max_concurrency": -1}, "max_concurrency is -1"),
        ({"tools": ["search"]}, "tools is 'str'"),
    ],
)
def test_a_wrong_input_is_refused_by_name_before_any_guard_is_made(inputs, problem, guards):
    node = executed()(_id="tools-1", **{"tools": [tool_named("search")], **inputs})
    with pytest.raises(InvalidInput, match=problem):
        node.build_tools()
    assert guards.guards() == []


def test_a_guarded_tool_is_not_guarded_again():
    with pytest.raises(InvalidInput, match="behind guard"):
        build(*build(tool_named("search")))


def test_an_agent_takes_the_output_in_and_an_emptied_field_is_no_limit():
    node = executed()(_id="tools-1", tools=[tool_named("search")], tool_timeout=None)
    [output] = node.outputs
    assert (output.name, output.method) == ("guarded_tools", "build_tools")
    assert node._get_method_return_type("build_tools") == ["Tool"]
    [made] = node.build_tools()
    assert made._protection.policy.timeout_s == 0
