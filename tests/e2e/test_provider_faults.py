"""Providers that fail in every way: what callers are told, what the breaker makes of it, and that it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from langflow_sluice.embedded.langflow import LangflowError
from langflow_sluice.guard.breaker import MIN_CALLS

from .chats import KINDS, LIMITED, STOCK, GuardedFlow, guarded_chats
from .streams import on_the_canvas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .conftest import Palette, Stack

LONGEST_TEXT = 300  # characters: what one reads at a glance


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        happened: What the caller is told after the provider's name.
        change: What the caller is told to change.
        settings: Of the provider.
        limits: Of both models.
        opens: Whether it is the service's own failure, which opens the breaker.
    """

    happened: str
    change: str
    settings: Mapping[str, Any]
    limits: Mapping[str, Any] = field(default_factory=dict)
    opens: bool = False


OFF = "could not be reached or broke the connection off"
BREAKS = {"stream_reset": OFF, "stream_error": "ended its answer with an error"}
NOBODY = "the address of nobody"
FAULTS = {
    "down": Fault(f"{OFF} (ConnectError)", "Check base_url, the network", {}, {"base_url": NOBODY}, opens=True),
    "slow": Fault("sent nothing", "Raise read_timeout", {"fault": "hang"}, {"read_timeout": 1}, opens=True),
    "resetting": Fault(f"{OFF} (ReadError)", "whether the service is up", {"fault": "reset"}, opens=True),
    "garbage": Fault("sent an answer that cannot be used", "Check that base_url", {"fault": "garbage"}),
    "400": Fault("answered 400: it refuses this request", "Check the model's parameters", {"fault": "status:400"}),
    "401": Fault("answered 401: it refuses this request", "Check api_key", {"fault": "status:401"}),
    "404": Fault("answered 404: it refuses this request", "Check model_name", {"fault": "status:404"}),
    "429": Fault("answered 429: it takes no more", "Lower max_concurrency", {"fault": "status:429"}),
    "500": Fault("answered 500: the service itself failed", "raise max_retries", {"fault": "status:500"}, opens=True),
    "503": Fault("answered 503: the service itself failed", "raise max_retries", {"fault": "status:503"}, opens=True),
    "503 with Retry-After": Fault(
        "answered 503: it takes no more", "Lower max_concurrency", {"fault": "status:503", "retry_after_s": 0.1}
    ),
}


@dataclass
class Outcome:
    """What came of the calls under one fault.

    Attributes:
        host: The address they were sent to.
        errors: What the API answered, by kind of model.
        on_canvas: What the canvas showed, by kind of model: in the chat and at the node.
        next_error: What the API answered to the call after them, through the same guard.
        recovered: What the same guard's next call came to, once the fault was gone.
    """

    host: str
    errors: dict[str, str]
    on_canvas: dict[str, tuple[str, str]]
    next_error: str = ""
    recovered: str = ""


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """An address at which nobody listens, nor will."""
    with contextlib.closing(socket.socket()) as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{kept.getsockname()[1]}"


def tweaks_of(flow: GuardedFlow, host: str, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Tweaks with the limits where each kind of model has them."""
    tweaks = flow.tweaks()
    tweaks.setdefault(LIMITED, {}).update(limits, base_url=f"http://{host}/v1")
    tweaks[STOCK]["openai_api_base"] = f"http://{host}/v1"
    if "read_timeout" in limits:
        tweaks[STOCK]["timeout"] = limits["read_timeout"]
    return tweaks


async def error_of(stack: Stack, flow: GuardedFlow, tweaks: Mapping[str, Any]) -> str:
    """What the API answers to a call that fails."""
    async with stack.langflow.async_client() as client:
        with pytest.raises(LangflowError) as raised:
            await client.run(flow.flow_id, "a question", tweaks=tweaks)
    return raised.value.message


async def shown_on_canvas(stack: Stack, flow: GuardedFlow, tweaks: Mapping[str, Any]) -> tuple[str, str]:
    """What the canvas shows of a run that fails: in the chat, and at the node."""
    chat = node = ""
    async with on_the_canvas(stack, flow.flow_id, "a question", tweaks) as run:
        async for event in run.events():
            if event.kind == "RUN_ERROR":
                chat = event.data["message"]
            elif event.kind == "STATE_DELTA" and event.data["delta"][0]["value"]["status"] == "error":
                [told] = event.data["delta"][0]["value"]["output"]["outputs"].values()
                node = told["message"]["errorMessage"]
    return chat, node


async def fail(stack: Stack, fault: Fault, flows: Mapping[str, GuardedFlow], nobody: str) -> Outcome:
    """Makes as many calls at once as the breaker needs, with both kinds of model; then one more."""
    host = nobody if fault.limits.get("base_url") == NOBODY else stack.provider.root_url.removeprefix("http://")
    stack.provider.configure(**{"fault": "ok", "slots": MIN_CALLS, "retry_after_s": None, **fault.settings})
    tweaks = {kind: tweaks_of(flow, host, fault.limits) for kind, flow in flows.items()}
    kinds = (*KINDS, KINDS[0])
    told, shown = await asyncio.gather(
        asyncio.gather(*(error_of(stack, flows[kind], tweaks[kind]) for kind in kinds)),
        asyncio.gather(*(shown_on_canvas(stack, flows[kind], tweaks[kind]) for kind in KINDS)),
    )
    assert len(told) + len(shown) == MIN_CALLS  # one more would find the breaker open, where the fault opens it
    outcome = Outcome(host, dict(zip(kinds, told, strict=True)), dict(zip(KINDS, shown, strict=True)))
    outcome.next_error = await error_of(stack, flows[KINDS[0]], tweaks[KINDS[0]])
    return outcome


@pytest.fixture(scope="module")
def chats(running: Stack, palette: Palette) -> dict[str, GuardedFlow]:
    return guarded_chats(running, palette)


@pytest.fixture(scope="module")
def outcomes(running: Stack, chats: dict[str, GuardedFlow], nobody: str) -> dict[str, Outcome]:
    """All faults one after the other, each through a guard of its own, and then the recovery of all at once."""
    stack, token = running, uuid.uuid4()

    async def run_all() -> dict[str, Outcome]:
        flows = {name: {kind: chat.behind(f"{name} {token}") for kind, chat in chats.items()} for name in FAULTS}
        try:
            found = {name: await fail(stack, fault, flows[name], nobody) for name, fault in FAULTS.items()}
        finally:
            stack.provider.configure(slots=len(FAULTS), service_s=0.05, fault="ok", retry_after_s=1.0)
        # They wait until their guards ask the service again.
        asked = (flows[name][KINDS[0]].ask(f"after {name}", max_retries=3) for name in FAULTS)
        for name, answer in zip(FAULTS, await asyncio.gather(*asked), strict=True):
            found[name].recovered = answer
        return found

    return asyncio.run(run_all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_apis_answer_names_the_service_what_happened_and_what_to_change(
    outcomes: dict[str, Outcome], name: str, kind: str
) -> None:
    fault, outcome = FAULTS[name], outcomes[name]
    before, text = outcome.errors[kind].split("\n\n")
    assert re.fullmatch(
        r"Langflow answered .* with 500: Error running graph: Error building Component [-\w ]+: ", before
    )
    assert text.startswith(f"{outcome.host} {fault.happened}")
    assert fault.change in text
    assert len(text) < LONGEST_TEXT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAULTS)
def test_the_canvas_shows_the_same_in_the_chat_and_at_the_node(
    outcomes: dict[str, Outcome], name: str, kind: str
) -> None:
    _, text = outcomes[name].errors[kind].split("\n\n")
    chat, node = outcomes[name].on_canvas[kind]
    assert chat.strip() == text
    assert re.fullmatch(rf"Error building Component [-\w ]+: \n\n{re.escape(text)}", node)


@pytest.mark.parametrize("name", FAULTS)
def test_the_breaker_opens_for_the_services_own_failures_only(outcomes: dict[str, Outcome], name: str) -> None:
    told = "is open: the service behind it failed" if FAULTS[name].opens else FAULTS[name].happened
    assert told in outcomes[name].next_error


@pytest.mark.parametrize("name", FAULTS)
def test_once_the_fault_is_gone_calls_go_through_again_by_themselves(outcomes: dict[str, Outcome], name: str) -> None:
    assert f"Answer to: after {name}" in outcomes[name].recovered


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", BREAKS)
async def test_of_an_answer_that_breaks_off_the_canvas_shows_what_has_come_and_why_no_more(
    stack: Stack, chats: dict[str, GuardedFlow], fault: str, kind: str
) -> None:
    stack.provider.configure(fault=fault)
    flow = chats[kind].behind(f"{fault} {uuid.uuid4()}")
    async with on_the_canvas(stack, flow.flow_id, "a question", flow.tweaks(stream=True)) as run:
        await run.until_written(1)
        told = [event.data["message"] async for event in run.events() if event.kind == "RUN_ERROR"]
    assert len(told) == 1
    assert BREAKS[fault] in told[0]
    assert stack.provider.stats().requests == {"chat": 1}
