from lfx.custom.custom_component.component import Component
from lfx.field_typing import Tool
from lfx.io import FloatInput, HandleInput, Output

from langflow_sluice.nodes.guard_inputs import guard_inputs, guard_of, node_identity, number, priority_of, report
from langflow_sluice.tools.guarded_tools import guard_of_tool, guarded_tools
from langflow_sluice.tools.tool_calls import ToolPolicy


class GuardedToolsComponent(Component):
    display_name = "Guarded Tools"
    description = "Puts a guard in front of an agent's tools: bounded calls, and an answer whatever becomes of them."
    icon = "shield"

    inputs = [
        HandleInput(
            name="tools",
            display_name="Tools",
            input_types=["Tool"],
            is_list=True,
            required=True,
            info="Tools for an agent, from any nodes.",
        ),
        FloatInput(
            name="tool_timeout",
            display_name="Tool Timeout",
            value=60,
            info="Seconds for one call, the wait for a slot not included. 0: no limit.",
        ),
        *guard_inputs(
            blank_name="each tool of this node has a guard of its own, shared by all runs of the flow", queue_timeout=30
        ),
    ]
    outputs = [
        # An input and an output of one name are refused by Langflow.
        Output(display_name="Tools", name="guarded_tools", method="build_tools"),
    ]

    def build_tools(self) -> list[Tool]:
        policy = ToolPolicy(timeout_s=number(self.tool_timeout), priority=priority_of(self))
        tools = self.tools if isinstance(self.tools, list) else [self.tools]
        guarded = guarded_tools(tools, lambda tool: guard_of(self, f"{node_identity(self)}:{tool.name}"), policy)
        self.status = "\n".join(dict.fromkeys(report(guard_of_tool(tool)) for tool in guarded)) or "No tools."
        self.log(self.status, name="Guard")
        return guarded
