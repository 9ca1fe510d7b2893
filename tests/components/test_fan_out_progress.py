"""The progress of a Fan-Out in its Logs and in the Playground, on Langflow's own event managers and queues."""

import asyncio
import json

import pytest
from lfx.events.event_manager import create_default_event_manager
from lfx.graph import Graph
from lfx.schema.data import Data
from lfx.schema.dataframe import DataFrame

from langflow_sluice.nodes.playground import shown_progress
from langflow_sluice.sections.events import SectionEvents
from langflow_sluice.testing import ManualClock, isolated_guards

from .conftest import HERE, load

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def clock():
    manual = ManualClock()
    with isolated_guards(manual):
        yield manual


@pytest.fixture
def work_nodes(probe):
    probe.passed = asyncio.Event()
    return load(HERE / "work_nodes.py", "work_nodes_under_test")


class Listener:
    """An event manager whose queue nobody reads but the test."""

    def __init__(self, maxsize=256):
        self.queue = asyncio.Queue(maxsize)
        self.manager = create_default_event_manager(self.queue)
        self._seen = []

    def events(self, *kinds):
        while not self.queue.empty():
            self._seen.append(json.loads(self.queue.get_nowait()[1]))
        return [event["data"] for event in self._seen if event["event"] in kinds]

    def messages(self):
        return [data for data in self.events("add_message") if "progress" in data]

    def lines(self):
        return [data["message"] for data in self.events("log") if data["name"] == "Progress"]


@pytest.fixture
def started(probe, work_nodes, sluice_nodes):
    """Starts a run over so many rows of which each finishes when the test lets one."""

    def start(rows, listener, **inputs):
        probe.given = DataFrame([{"n": n} for n in range(rows)])
        probe.turn = asyncio.Semaphore(0)

        async def work(item):
            probe.ran("work")
            await probe.turn.acquire()
            if item.data["n"] in probe.failing:
                msg = "no"
                raise ValueError(msg)
            return Data(data={})

        probe.work = work
        give, keep = work_nodes.GiveComponent(_id="give"), work_nodes.KeepComponent(_id="keep")
        fan, inside = sluice_nodes.fan_out(_id="fan", **inputs), work_nodes.WorkComponent(_id="work")
        fan.set(data=give.give)
        inside.set(item=fan.item_output)
        fan.set(item=inside.work)
        keep.set(value=fan.done_output, other=fan.failed_output)
        graph = Graph(give, keep, flow_id="7b8e3a40-0f49-4d7c-9d3e-0d8f5f1c2a11")
        graph.session_id = "a session"

        async def run():
            await graph.initialize_run()
            await graph.process(fallback_to_env_vars=False, event_manager=listener and listener.manager)

        return asyncio.ensure_future(run())

    return start


async def begun(probe, count):
    while probe.runs["work"] < count:  # noqa: ASYNC110 - what Langflow does meanwhile tells nobody when it is done
        await asyncio.sleep(0)


async def finish(probe, running):
    for _ in range(1000):
        probe.turn.release()
    await running


async def test_one_message_is_updated_in_place_and_comes_to_an_end(started, clock, probe):
    listener, probe.failing = Listener(), {1}
    running = started(4, listener, max_concurrency=1)
    await begun(probe, 1)
    await clock.advance(1.5)
    for row in range(2):
        probe.turn.release()
        await begun(probe, row + 2)
        await clock.advance(1)
    await finish(probe, running)
    messages = listener.messages()
    assert len({message["id"] for message in messages}) == 1
    shown = [message["content_blocks"][0]["text"] for message in messages]
    assert shown == [
        "░░░░░░░░░░░░░░░░░░░░░░░░ 0 of 4 rows",
        "██████░░░░░░░░░░░░░░░░░░ 1 of 4 rows, 0.5 rows/s, about 6 s left",
        "██████▒▒▒▒▒▒░░░░░░░░░░░░ 2 of 4 rows, 1 failed, 0.667 rows/s, about 3 s left",
        "██████████████████▒▒▒▒▒▒ 4 of 4 rows, 1 failed, 1.14 rows/s, in 3.50 s",
    ]
    assert [message["properties"]["state"] for message in messages] == ["partial"] * 3 + ["complete"]
    assert messages[-1]["progress"] == {
        "done": 4,
        "total": 4,
        "failed": 1,
        "per_s": 1.143,
        "elapsed_s": 3.5,
        "left_s": 0.0,
        "text": "4 of 4 rows, 1 failed, 1.14 rows/s, in 3.50 s",
        "state": "complete",
        "reason": "",
    }
    assert listener.lines()[:3] == [line.partition(" ")[2] for line in shown[:3]]


async def test_it_goes_to_the_session_of_the_run_and_is_no_answer(started, clock, probe):
    listener = Listener()
    running = started(2, listener)
    await begun(probe, 2)
    await clock.advance(1)
    await finish(probe, running)
    for message in listener.messages():
        assert message["session_id"] == "a session"
        assert message["flow_id"] == "7b8e3a40-0f49-4d7c-9d3e-0d8f5f1c2a11"
        assert (message["sender"], message["sender_name"]) == ("Machine", "Fan-Out")
        # The text is what OpenAI and AG-UI clients would add to the answer.
        assert message["text"] == message["data"]["text"] == ""


async def test_short_work_shows_nothing(started, clock, probe):
    listener = Listener()
    running = started(300, listener)
    await clock.advance(0.5)
    await finish(probe, running)
    assert listener.messages() == []
    (line,) = listener.lines()
    assert line.startswith("300 of 300 rows")


async def test_a_run_that_ends_by_an_error_says_so(started, clock, probe):
    listener, probe.failing = Listener(), {0}
    running = started(3, listener, on_error="stop", max_concurrency=1)
    await begun(probe, 1)
    await clock.advance(1)
    probe.turn.release()
    with pytest.raises(Exception, match="Row 0 failed"):
        await running
    last = listener.messages()[-1]
    assert (last["progress"]["reason"], last["properties"]["state"]) == ("ended by an error", "complete")
    assert last["content_blocks"][0]["text"].endswith(
        "1 of 3 rows, 1 failed, 1 rows/s, about 2 s left, ended by an error"
    )


async def test_a_run_that_is_stopped_says_so_and_stays_cancelled(started, clock, probe):
    listener = Listener()
    running = started(3, listener)
    await begun(probe, 3)
    await clock.advance(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert listener.messages()[-1]["progress"]["reason"] == "stopped"
    seen = len(listener.messages())
    await clock.advance(60)
    assert len(listener.messages()) == seen


async def test_where_nobody_listens_nothing_is_made(started, clock, probe):
    running = started(3, None)
    await begun(probe, 3)
    tasks = len(asyncio.all_tasks())
    await clock.advance(60)
    assert len(asyncio.all_tasks()) == tasks
    await finish(probe, running)


async def test_a_client_that_reads_too_slowly_does_not_lose_the_run_to_progress(started, clock, probe):
    listener = Listener(maxsize=8)
    running = started(3, listener)
    await begun(probe, 3)
    while listener.queue.qsize() < 4:
        listener.manager.on_message(data={})
    await clock.advance(10)
    assert listener.queue.qsize() == 4
    await finish(probe, running)
    assert len(probe.results["keep"][0]) == 3


async def test_an_hour_sends_some_hundred_log_entries_of_one_line_each(started, clock, probe):
    listener = Listener(maxsize=0)
    running = started(100, listener)
    await begun(probe, 8)
    for _ in range(60):
        await clock.advance(60)
    entries = listener.events("log")
    assert 150 < len(entries) < 250
    assert max(len(json.dumps(entry)) for entry in entries) < 300
    running.cancel()
    await asyncio.wait([running])


async def test_a_listener_that_fails_does_not_fail_the_run(started, clock, probe):
    listener = Listener()

    def broken(**_):
        msg = "gone"
        raise ConnectionError(msg)

    listener.manager.events["on_message"] = broken
    running = started(3, listener)
    await begun(probe, 3)
    await clock.advance(5)
    await finish(probe, running)
    assert len(probe.results["keep"][0]) == 3


async def test_inside_a_section_the_owner_alone_speaks(sluice_nodes, clock):
    outer = Listener()
    fan = sluice_nodes.fan_out(_id="inner")
    fan.set_event_manager(SectionEvents(outer.manager, clock))
    async with shown_progress(fan, 10, clock) as progress:
        await clock.advance(10)
        progress.add(5)
    assert outer.queue.empty()


async def test_another_loop_shows_its_own(sluice_nodes, clock):
    def run():
        async def show():
            listener = Listener()
            fan = sluice_nodes.fan_out(_id="fan")
            fan._vertex = FakePlace()
            fan.set_event_manager(listener.manager)
            async with shown_progress(fan, 10, clock, "calls") as progress:
                await clock.advance(2)
                progress.add(5)
            return listener.messages()

        return asyncio.run(show())

    first, *_, last = await asyncio.to_thread(run)
    assert first["content_blocks"][0]["text"].endswith("0 of 10 calls")
    assert last["properties"]["state"] == "complete"


class FakePlace:
    """A vertex that knows its graph, as far as a message asks."""

    class graph:  # noqa: N801 - as an instance would have it
        flow_id, session_id = "flow", ""
