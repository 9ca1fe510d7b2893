"""Everyone who calls a model, at once, behind one guard in a real Langflow; judged by the provider's own records."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from .callers import AGES_S, LLM, callers, echoed, once_each, tell, tickets, until
from .streams import through_the_api

if TYPE_CHECKING:
    from .conftest import Stack

CAP = 8  # of the guard, as the nodes come; whoever names no guard shares the one of the service and the key


async def in_flight(stack: Stack, requests: int) -> None:
    await until(lambda: stack.provider.stats().in_flight == {"chat": requests})


async def test_the_cap_holds_over_all_kinds_of_callers_at_once(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    stack = stack_afresh
    rows, items = tickets("batch", 24), tickets("fan-out", 20)
    questions, extracts, streams = tickets("agent", 4), tickets("structured", 4), tickets("stream", 6)
    stack.provider.configure(fault="hang", slots=CAP, service_s=0.1)  # nobody leaves before all kinds are inside
    started = time.monotonic()
    async with callers(stack, model_flows) as ask, asyncio.TaskGroup() as group:
        calls = []
        first = (
            (ask.agent(questions[0]), 1),
            (ask.extract(extracts[0]), 2),
            (ask.stream(streams[0]), 3),
            (ask.fan_out(items[:10], at_once=2), 5),
            (ask.batch(rows[:12]), CAP),
        )
        for call, requests in first:
            calls.append(group.create_task(call))
            await in_flight(stack, requests)
        stack.provider.configure(fault="ok")
        calls += [group.create_task(ask.batch(rows[12:])), group.create_task(ask.fan_out(items[10:]))]
        for kind, texts in ((ask.agent, questions), (ask.extract, extracts), (ask.stream, streams)):
            calls += [group.create_task(kind(text)) for text in texts[1:]]
    took_s = time.monotonic() - started
    answers = {question: answer for call in calls for question, answer in call.result().items()}
    for question in questions:
        assert answers.pop(question).startswith("Current date and time in UTC: 2")  # as its tool says
    for question in extracts:
        assert answers.pop(question) == question
    assert answers == echoed([*rows, *items, *streams])
    stats = stack.provider.stats()
    expected = once_each([*rows, *items, *extracts, *streams]) + once_each(questions * 2)
    assert stats.answered == {200: expected.total()}
    assert stats.max_in_flight == {"chat": CAP}
    assert stats.subjects() == expected
    tell(f"{expected.total()} requests of five kinds of callers, cap {CAP}: {took_s:.2f} s")


async def test_a_streamed_answer_comes_while_the_provider_is_still_writing_it(stack_afresh: Stack) -> None:
    stack_afresh.provider.configure(service_s=AGES_S / 2)
    tweaks = {LLM: {**stack_afresh.tweaks[LLM], "stream": True}}
    async with through_the_api(stack_afresh, stack_afresh.flows["chat_rate_limited"], "word " * 50, tweaks) as run:
        await run.until_written(2)
        assert stack_afresh.provider.stats().in_flight == {"chat": 1}


def busy_s(stack: Stack) -> float:
    """Seconds from the provider's first request to the end of its last."""
    calls = stack.provider.stats().calls
    return max(call.arrived_at + call.duration_s for call in calls) - min(call.arrived_at for call in calls)


async def test_batch_run_sends_each_of_a_hundred_rows_once(stack_afresh: Stack, model_flows: dict[str, str]) -> None:
    rows, service_s = tickets("batch", 100), 0.2
    stack_afresh.provider.configure(slots=CAP, service_s=service_s)
    async with callers(stack_afresh, model_flows) as ask:
        await ask.batch(["to warm up"])
        started = time.monotonic()
        await ask.batch(["one row alone"])
        alone_s = time.monotonic() - started - service_s
        stack_afresh.provider.reset()
        started = time.monotonic()
        answers = await ask.batch(rows)
        took_s = time.monotonic() - started
    assert answers == echoed(rows)
    stats = stack_afresh.provider.stats()
    assert stats.subjects() == once_each(rows)
    assert stats.answered == {200: 100}
    assert stats.max_in_flight == {"chat": CAP}
    ideal_s, seen_s = 100 / CAP * service_s, busy_s(stack_afresh)
    tell(
        f"100 rows, cap {CAP}, ideal {ideal_s:.2f} s: the run {took_s:.2f} s ({took_s / ideal_s:.2f} x), without the "
        f"{alone_s:.2f} s that a run takes by itself {took_s - alone_s:.2f} s ({(took_s - alone_s) / ideal_s:.2f} x); "
        f"the provider was busy for {seen_s:.2f} s ({seen_s / ideal_s:.2f} x)"
    )


async def test_an_adaptive_guard_keeps_every_row_where_its_cap_is_four_times_too_high(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    rows = tickets("batch", 100)
    stack_afresh.provider.configure(slots=CAP, service_s=0.2)
    async with callers(stack_afresh, model_flows) as ask:
        started = time.monotonic()
        answers = await ask.batch(rows, max_concurrency=4 * CAP, adaptive=True)
        took_s = time.monotonic() - started
    assert answers == echoed(rows)
    stats = stack_afresh.provider.stats()
    refused, requests = stats.answered.get(429, 0), stats.requests["chat"]
    assert stats.subjects(status=200) == once_each(rows)
    assert stats.answered[200] == 100
    assert refused <= 0.1 * requests
    tell(f"100 rows, cap {4 * CAP}, adaptive: {took_s:.2f} s, {refused} of {requests} requests refused")


async def test_retry_after_stops_all_flows_and_everybody_succeeds_after_it(
    stack_afresh: Stack, model_flows: dict[str, str]
) -> None:
    provider, pause_s, under_way_s = stack_afresh.provider, 2.0, 1.5
    rows, items, questions = tickets("batch", 12), tickets("fan-out", 8), tickets("chat", 6)
    provider.configure(slots=2, service_s=0.2, retry_after_s=pause_s)
    async with callers(stack_afresh, model_flows) as ask, asyncio.TaskGroup() as group:
        calls = [group.create_task(ask.batch(rows)), group.create_task(ask.fan_out(items))]
        calls += [group.create_task(ask.chat(question)) for question in questions]
        await until(lambda: 429 in provider.stats().answered)
        provider.configure(slots=CAP)  # well again before the pause is over
    answers = {question: answer for call in calls for question, answer in call.result().items()}
    everybody = [*rows, *items, *questions]
    assert answers == echoed(everybody)
    stats = provider.stats()
    assert stats.subjects(status=200) == once_each(everybody)
    refusals = [call.arrived_at + call.duration_s for call in stats.calls if call.status == 429]
    for refused_at in refusals:
        since = [call.arrived_at - refused_at for call in stats.calls]
        assert [after_s for after_s in since if under_way_s < after_s < pause_s] == []
    since = [call.arrived_at - min(refusals) for call in stats.calls]
    # What came after the refusal was under way when the guard heard of it: no more than the cap allows.
    under_way = [after_s for after_s in since if 0 < after_s < pause_s]
    assert len(under_way) < CAP
    following = [after_s for after_s in since if after_s >= pause_s]
    assert len(following) > len(questions)
    tell(
        f"{len(refusals)} refused with Retry-After {pause_s:g} s; the last request under way came "
        f"{max(under_way, default=0.0):.3f} s after the first refusal, the next one after {min(following):.3f} s"
    )
