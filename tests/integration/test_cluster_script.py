"""What the cluster's script decides, called directly: several processes' exchanges with one Redis, in any order."""

from __future__ import annotations

import itertools
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from langflow_sluice.cluster import exchange
from langflow_sluice.cluster.exchange import BREAKER_STATES, Answer, Ask, Handover
from langflow_sluice.guard.adaptive import AdaptiveLimit
from langflow_sluice.guard.breaker import BreakerState, CircuitBreaker
from langflow_sluice.guard.lanes import Lanes
from langflow_sluice.guard.settings import PRIORITIES, GuardSettings
from langflow_sluice.guard.waiter import Waiter, WaiterState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis import Redis
    from redis.client import PubSub

    from langflow_sluice.embedded.redis import EmbeddedRedis

NOBODY = (0, 0, 0)
LEASE_S = 30.0
MICRO = 1_000_000
# Numbers of a guard's record: the times of the last exchange, and of the next request and token.
LAST, NEXT_REQUEST, NEXT_TOKEN = 0, 20, 21
# Making a failing example smaller would take minutes.
ONLY_THESE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    database=None,
    phases=[Phase.generate],
    max_examples=40,
)


class Cluster:
    """One guard in Redis, and what processes are told of it."""

    def __init__(self, client: Redis, heard: PubSub, **limits: Any) -> None:
        self.client = client
        self.name = secrets.token_hex(6)
        self.prefix = "script"
        self.keys = exchange.keys(self.prefix, self.name)
        self.limits = exchange.limits_text(GuardSettings(**{"max_concurrency": 0, **limits}))
        self.run = "first run"
        self.uncertain_s = 0.0
        self._script = client.script_load(exchange.script())
        self._heard = heard

    def process(self, name: str, **limits: Any) -> Process:
        text = exchange.limits_text(GuardSettings(**{"max_concurrency": 0, **limits})) if limits else self.limits
        return Process(self, f"{self.name}-{name}", text)

    def send(self, process: str, ask: Ask, lease_s: float) -> Answer:
        arguments = ask.arguments(
            process, self.name, self.prefix, lease_s=lease_s, server_run=self.run, uncertain_s=self.uncertain_s
        )
        told = self.client.evalsha(self._script, exchange.NUMBER_OF_KEYS, *self.keys, *arguments)
        return Answer.of(told)

    def now(self) -> float:
        seconds, micro = self.client.time()
        return seconds + micro / MICRO

    def messages(self) -> list[tuple[str, Handover | None]]:
        """What processes of this guard were told since the last look: (process, message)."""
        end = secrets.token_hex(8)
        self.client.publish(exchange.channel(self.prefix, end), end)
        found = []
        while True:
            message = self._heard.get_message(timeout=5)
            assert message is not None
            if message["type"] != "pmessage":
                continue
            process = message["channel"].decode().rpartition(":")[2]
            if process == end:
                return found
            if process.startswith(self.name):
                guard, handover = Handover.of(message["data"])
                assert guard == self.name
                found.append((process, handover))

    def lose_lease(self, process: Process) -> None:
        """As if the process had not been heard of for its lease."""
        self.client.zadd(self.keys[1], {process.name: 0})
        # Whose lease is over at once, so that the next exchange looks for leases that are.
        self.process(f"moth {secrets.token_hex(4)}").ask(lease_s=1 / MICRO)

    def record(self, field: str) -> list[Any]:
        """A record of the state, taken apart: its strings as one, then its numbers."""
        packed = self.client.hget(self.keys[0], field)
        strings, numbers = (4, 38) if not field else (1, 12)
        *texts, rest = packed.split(b"\0", strings)
        return [texts, list(exchange.struct.unpack(f">{numbers}d", rest))]

    def move(self, seconds: float, *numbers: int) -> None:
        """Moves times of the guard's record; the first is that of the last exchange."""
        texts, values = self.record("")
        for number in numbers:
            values[number] += seconds * MICRO
        packed = b"".join(text + b"\0" for text in texts) + exchange.struct.pack(f">{len(values)}d", *values)
        self.client.hset(self.keys[0], "", packed)

    def restart(self, *, data: bool) -> None:
        """As if the server had been started anew just now."""
        self.run, self.uncertain_s = f"not {self.run}", LEASE_S
        if not data:
            self.client.delete(*self.keys)


class Process:
    """What a process tells; it learns of permits by answers, and by messages if the test lets it."""

    def __init__(self, cluster: Cluster, name: str, limits: str) -> None:
        self.cluster = cluster
        self.name = name
        self.fence = self.released = self.known = self.number = self.seen = 0
        self.limits = limits
        self.last: tuple[Ask, float]

    @property
    def held(self) -> int:
        return self.known - self.released

    def ask(
        self,
        waiting: tuple[int, int, int] = NOBODY,
        *,
        tokens: float | None = None,
        events: tuple[str, ...] = (),
        charge: float = 0.0,
        longest_s: float = 60.0,
        lease_s: float = LEASE_S,
        goodbye: bool = False,
    ) -> Answer:
        self.number += 1
        ask = Ask(
            fence=self.fence,
            released=self.released,
            known=self.known,
            waiting=waiting,
            tokens=() if tokens is None else (tokens,),
            limits=self.limits,
            seen=self.seen,
            number=self.number,
            events=events,
            correction=charge,
            longest_probe_s=longest_s,
            goodbye=goodbye,
        )
        self.last = (ask, lease_s)
        return self.take(self.cluster.send(self.name, ask, lease_s))

    def again(self, **changes: Any) -> Answer:
        """The same arguments once more."""
        return self.cluster.send(self.name, replace(self.last[0], **changes), self.last[1])

    def take(self, answer: Answer) -> Answer:
        self.fence, self.known = answer.fence, max(self.known, answer.granted)
        self.seen = max(self.seen, answer.members)
        return answer

    def hear(self, handover: Handover) -> None:
        if handover.fence == self.fence:
            self.known = max(self.known, handover.granted)

    def let_go(self, count: int = 1) -> None:
        assert self.held >= count
        self.released += count


@pytest.fixture(scope="module")
def client(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def make(client: Redis) -> Iterator[Callable[..., Cluster]]:
    with client.pubsub() as heard:
        heard.psubscribe(exchange.channel("script", "*"))
        yield lambda **limits: Cluster(client, heard, **limits)


# The permits.

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "ask", "answer lost", "again", "hear", "deaf", "let go", "let go", "lease", "bye"]
        ),
        st.integers(0, 2),
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    ),
    min_size=10,
    max_size=60,
)


class Model:
    """What must come out of any sequence of exchanges under a cap."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.members: dict[str, list[Any]] = {}  # fence, granted, given back, callers that wait in each lane

    def in_flight(self) -> int:
        return sum(granted - released for _, granted, released, _ in self.members.values())

    def exchanged(self, name: str, ask: Ask, answer: Answer, messages: list[tuple[str, Handover | None]]) -> None:
        member = self.members.get(name)
        if member is None or member[0] != ask.fence:
            assert answer.fence not in {ask.fence, *(each[0] for each in self.members.values())}
            assert answer.lost == bool(ask.fence)
            member = self.members[name] = [answer.fence, ask.known, ask.released, [0, 0, 0]]
        assert answer.fence == member[0]
        member[1:3] = max(member[1], ask.known), max(member[2], ask.released)
        on_way = member[1] - ask.known
        for lane in range(3):
            covered = min(ask.waiting[lane], on_way)
            on_way -= covered
            member[3][lane] = 0 if ask.goodbye else ask.waiting[lane] - covered
        if ask.goodbye:
            member[1] = answer.granted
            del self.members[name]
        free = max(0, self.cap - self.in_flight())
        wanted = sum(sum(each[3]) for each in self.members.values())
        # Its own permits come with the answer, those of others by message.
        assert answer.granted == member[1] + answer.granted_now
        given = [before - after for before, after in zip(member[3], answer.waiting, strict=True)]
        assert min(given) >= 0
        assert sum(given) == answer.granted_now
        member[1], member[3] = answer.granted, list(answer.waiting)
        count = answer.granted_now
        for other, handover in messages:
            assert handover is not None
            fence, granted, _, waiting = self.members[other]
            assert (handover.fence, handover.granted) == (fence, granted + len(handover.lanes))
            for lane in handover.lanes:
                waiting[lane] -= 1
            assert min(waiting) >= 0
            self.members[other][1] = handover.granted
            count += len(handover.lanes)
        assert count == min(free, wanted)
        assert answer.in_flight == self.in_flight()
        assert answer.members == len(self.members)


class Walk:
    """Three processes that do anything in any order; each exchange is held against the model."""

    def __init__(self, cluster: Cluster, cap: int) -> None:
        self.cluster = cluster
        self.model = Model(cap)
        self.processes = [cluster.process(str(number)) for number in range(3)]
        self.mail: dict[str, list[Handover]] = {each.name: [] for each in self.processes}

    def step(self, kind: str, number: int, waiting: tuple[int, int, int]) -> None:
        process = self.processes[number]
        if kind == "ask":
            self._exchange(process, process.ask(waiting))
        elif kind == "bye":
            self._exchange(process, process.ask(waiting, goodbye=True))
            self.processes[number] = self.cluster.process(str(number))  # a guard that is used again: it begins anew
            self.mail[process.name].clear()
        elif kind == "answer lost":
            before = process.fence, process.known, process.seen
            self._exchange(process, process.ask(waiting))
            process.fence, process.known, process.seen = before
        elif kind == "again" and process.number:
            self._exchange(process, process.again())
        elif kind in {"hear", "deaf"}:
            for handover in self.mail[process.name] if kind == "hear" else ():
                process.hear(handover)
            self.mail[process.name].clear()
        elif kind == "let go" and process.held:
            process.let_go()
        elif kind == "lease" and process.name in self.model.members:
            self._lose_lease(process)

    def _exchange(self, process: Process, answer: Answer) -> None:
        messages = self.cluster.messages()
        self.model.exchanged(process.name, process.last[0], answer, messages)
        self._deliver(messages)

    def _deliver(self, messages: list[tuple[str, Handover | None]]) -> None:
        for name, handover in messages:
            assert handover is not None
            self.mail[name].append(handover)

    def _lose_lease(self, process: Process) -> None:
        # Its permits go to those who wait, with the next exchange; its own calls count again when it is back.
        self.cluster.lose_lease(process)
        del self.model.members[process.name]
        answer = self.cluster.process("looks").ask(goodbye=True)
        messages = self.cluster.messages()
        self._deliver(messages)
        for name, handover in messages:
            assert handover is not None
            self.model.members[name][1] = handover.granted
            for lane in handover.lanes:
                self.model.members[name][3][lane] -= 1
        assert self.model.in_flight() == answer.in_flight


@ONLY_THESE
@given(cap=st.integers(1, 4), steps=STEPS)
def test_in_any_order_permits_stay_under_the_cap_and_none_is_lost_or_doubled(
    make: Callable[..., Cluster], cap: int, steps: list[tuple[str, int, tuple[int, int, int]]]
) -> None:
    cluster = make(max_concurrency=cap)
    walk = Walk(cluster, cap)
    for step in steps:
        walk.step(*step)
    for key in cluster.client.scan_iter(f"*{cluster.name}*"):
        assert key.decode() in cluster.keys
        assert 0 < cluster.client.pttl(key) <= 3_600_000


def test_the_same_exchange_twice_changes_nothing(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=3, tokens_per_minute=60_000)
    process, other = cluster.process("a"), cluster.process("b")
    process.ask()
    first = process.ask((0, 2, 0), tokens=100, events=("f:0:0",) * 4, charge=30_000)
    assert first.granted_now == 1
    again = process.again()
    assert (again.granted, again.granted_now, again.in_flight, again.opened) == (1, 0, 1, 0)
    # Four failures and no fifth; a charge that came twice would leave nothing for this one.
    assert other.ask((0, 1, 0), tokens=25_000).granted_now == 1


def test_what_was_told_before_a_lease_was_lost_is_not_counted_again(make: Callable[..., Cluster]) -> None:
    cluster = make(tokens_per_minute=60_000)
    process = cluster.process("a")
    process.ask()
    process.ask(events=("f:0:0",) * 3, charge=-100)
    cluster.lose_lease(process)
    assert cluster.process("b").ask().members == 1
    back = process.again()
    assert (back.lost, back.opened) == (True, 0)
    assert process.take(process.again(fence=back.fence)).opened == 0


def test_a_refund_that_may_have_come_already_is_not_given_twice(make: Callable[..., Cluster]) -> None:
    cluster = make(tokens_per_minute=6000)
    process = cluster.process("a")
    assert process.ask((0, 1, 0), tokens=6000).granted_now == 1
    process.ask(charge=-2000)
    cluster.lose_lease(process)
    assert process.again().lost
    assert cluster.process("b").ask((0, 1, 0), tokens=3000).granted_now == 0


def test_what_was_told_while_joining_counts_once_though_the_answer_was_lost(make: Callable[..., Cluster]) -> None:
    cluster = make()
    process = cluster.process("a")
    process.ask(events=("f:0:0",) * 3)
    assert process.take(process.again()).opened == 0
    assert process.ask(events=("f:0:0",) * 2).opened == 1


def test_calls_that_a_process_started_alone_count_as_its_own(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    process, other = cluster.process("a"), cluster.process("b")
    process.ask()
    process.known += 2
    answer = process.ask()
    assert (answer.in_flight, answer.granted_now) == (2, 0)
    assert other.ask((0, 1, 0)).granted_now == 0


def test_a_process_that_comes_back_counts_what_it_still_runs_and_its_place_went_to_others(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(max_concurrency=2)
    stopped, other = cluster.process("a"), cluster.process("b")
    assert stopped.ask((0, 2, 0)).granted_now == 2
    assert other.ask((0, 2, 0)).granted_now == 0
    fence = stopped.fence
    cluster.lose_lease(stopped)
    assert other.ask((0, 2, 0)).granted == 2
    back = stopped.ask((0, 1, 0))
    assert (back.lost, back.in_flight, back.granted_now) == (True, 4, 0)
    assert back.fence not in {fence, other.fence}
    other.let_go(2)
    assert other.ask().in_flight == 2


def test_a_guard_that_was_left_and_is_used_again_starts_from_its_new_totals(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    old = cluster.process("a")
    for _ in range(5):
        assert old.ask((0, 1, 0)).granted_now == 1
        old.let_go()
    old.ask()
    new = cluster.process("a")  # the goodbye of the old one is lost
    answer = new.ask((0, 3, 0))
    assert (answer.granted, answer.granted_now, answer.members) == (2, 2, 1)


def test_who_leaves_hands_its_permits_over_and_wants_nothing(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1, requests_per_minute=120)
    leaving, other = cluster.process("a"), cluster.process("b")
    leaving.ask((0, 1, 0))
    other.ask((0, 1, 0))
    cluster.messages()
    gone = leaving.ask((0, 1, 0), goodbye=True)
    assert (gone.granted_now, gone.members) == (0, 1)
    ((process, handover),) = cluster.messages()
    assert process == other.name
    assert handover is not None
    assert (handover.granted, handover.lanes) == (1, (1,))
    assert other.ask((0, 0, 0)).in_flight == 1
    assert make().process("alone").ask((0, 1, 0), goodbye=True).granted == 0


def test_a_user_of_redis_without_the_right_to_channels_gets_each_permit_once(
    redis_server: EmbeddedRedis, client: Redis
) -> None:
    user = secrets.token_hex(6)
    client.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", "resetchannels")
    try:
        with redis_server.client(username=user, password="secret") as mute, client.pubsub() as heard:
            cluster = Cluster(mute, heard, max_concurrency=1)
            holder, waiting, last = map(cluster.process, "abc")
            holder.ask((0, 1, 0))
            waiting.ask((0, 2, 0))
            last.ask((0, 2, 0))
            holder.let_go()
            assert holder.ask().in_flight == 1
            assert holder.again().in_flight == 1
            assert waiting.ask((0, 2, 0)).granted == 1
            assert last.ask((0, 2, 0), events=("f:0:0",) * 5).opened == 1
    finally:
        client.execute_command("ACL", "DELUSER", user)


# Order.


def test_processes_take_turns_whatever_the_number_of_their_callers(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1)
    holder = cluster.process("holder")
    holder.ask((0, 1, 0))
    processes = {each.name: each for each in map(cluster.process, "abc")}
    waiting = dict(zip(processes, (4, 1, 2), strict=True))
    for name, process in processes.items():
        process.ask((0, waiting[name], 0))
    cluster.messages()
    order = []
    running = holder
    for _ in range(7):
        running.let_go()
        running.ask((0, waiting.get(running.name, 0), 0))
        ((name, handover),) = cluster.messages() or [(running.name, None)]
        running = processes[name]
        if handover is not None:
            running.hear(handover)
        waiting[name] -= 1
        order.append(name[-1])
    assert "".join(order) == "abcacaa"


def test_who_comes_back_for_more_goes_behind_those_who_wait(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1)
    greedy, patient = cluster.process("a"), cluster.process("b")
    greedy.ask((0, 1, 0))
    patient.ask((0, 1, 0))
    greedy.let_go()
    assert greedy.ask((0, 1, 0)).granted_now == 0
    assert [name for name, _ in cluster.messages()] == [patient.name]


@ONLY_THESE
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 0, 0, 1, 2])), min_size=30, max_size=90))
def test_lanes_go_in_the_order_of_a_guard_within_one_process(
    make: Callable[..., Cluster], steps: list[tuple[int, int]]
) -> None:
    cluster = make(max_concurrency=1)
    holder = cluster.process("holder")
    holder.ask((0, 1, 0))
    processes = [cluster.process(str(number)) for number in range(3)]
    waiting = {each.name: [0, 0, 0] for each in processes}
    lanes = Lanes()
    running = holder

    def one_goes() -> None:
        nonlocal running
        expected = lanes.front()
        running.let_go()
        lanes_given = running.ask(tuple(waiting.get(running.name, NOBODY))).granted_now  # type: ignore[arg-type]
        messages = cluster.messages()
        if expected is None:
            assert not messages
            assert not lanes_given
            running = holder
            holder.released = holder.known = holder.ask((0, 1, 0)).granted
            holder.released -= 1
            return
        lanes.pop(expected)
        if lanes_given:
            answered = list(running.cluster.record(running.name)[1][4:7])
            lane = next(i for i in range(3) if waiting[running.name][i] != answered[i])
        else:
            ((name, handover),) = messages
            assert handover is not None
            running = next(each for each in processes if each.name == name)
            running.hear(handover)
            (lane,) = handover.lanes
        waiting[running.name][lane] -= 1
        assert PRIORITIES[lane] == expected.priority

    for number, lane in steps:
        process = processes[number]
        waiting[process.name][lane] += 1
        process.ask(tuple(waiting[process.name]))  # type: ignore[arg-type]
        waiter = Waiter(0.0, PRIORITIES[lane], None)
        waiter.state = WaiterState.WAITING
        lanes.append(waiter)
        if sum(map(sum, waiting.values())) > 6:
            one_goes()
    for _ in range(sum(map(sum, waiting.values()))):
        one_goes()


def test_a_lane_is_passed_over_sixteen_times_and_only_while_somebody_waits_in_it(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(max_concurrency=1)
    process = cluster.process("a")
    for _ in range(20):  # nobody is passed over here
        process.ask((1, 0, 0))
        process.let_go()
    given = []
    for _ in range(18):
        answer = process.ask((1, 0, 1))
        given.append(answer.waiting)
        process.let_go()
    assert given == [(0, 0, 1)] * 16 + [(1, 0, 0)] + [(0, 0, 1)]


# Rates.


def test_no_window_sees_more_requests_than_the_rate_and_its_burst(make: Callable[..., Cluster]) -> None:
    a_second = 1000.0
    cluster = make(requests_per_minute=60 * a_second)
    processes = [cluster.process("a"), cluster.process("b")]
    seen = []
    for process in itertools.islice(itertools.cycle(processes), 300):
        before = cluster.now()
        got = process.ask((0, 2000, 0)).granted_now
        got += sum(len(handover.lanes) for _, handover in cluster.messages() if handover)
        for each in processes:
            each.known = max(each.known, int(cluster.record(each.name)[1][0])) if each.fence else 0
            each.released = each.known
        seen.append((before, cluster.now(), got))
    for first in range(0, len(seen), 7):
        count = 0
        for _, until, got in seen[first:]:
            count += got
            assert count <= a_second + a_second * (until - seen[first][0])
    # Each asked for all there was: nothing of the rate was lost either.
    assert sum(got for *_, got in seen) >= a_second + a_second * (seen[-1][0] - seen[0][1]) - 1


def test_no_window_sees_more_tokens_than_the_rate_and_its_burst(make: Callable[..., Cluster]) -> None:
    a_minute = 6_000_000.0
    cluster = make(tokens_per_minute=a_minute)
    process = cluster.process("a")
    began = cluster.now()
    assert process.ask((0, 1, 0), tokens=a_minute).granted_now == 1
    emptied = cluster.now()
    spent, last = 0.0, began
    for _ in range(300):
        last = cluster.now()
        spent += 1000 * process.ask((0, 1, 0), tokens=1000).granted_now
        process.let_go(process.held)
        assert spent <= a_minute / 60 * (cluster.now() - began)
    assert spent >= a_minute / 60 * (last - emptied) * 0.5 - 1000


def test_many_tokens_are_not_overtaken_by_few(make: Callable[..., Cluster]) -> None:
    cluster = make(tokens_per_minute=6000)
    spender, heavy, light = map(cluster.process, "abc")
    assert spender.ask((0, 1, 0), tokens=3000).granted_now == 1
    waits = heavy.ask((0, 1, 0), tokens=6000)
    assert waits.granted_now == 0
    assert 29 < waits.retry_s <= 30
    for _ in range(20):
        assert light.ask((0, 1, 0), tokens=1).granted_now == 0
    # The heavy one gives up: then the light one goes.
    heavy.ask()
    assert light.known + sum(len(each.lanes) for _, each in cluster.messages() if each) == 1


def test_who_has_not_said_how_many_tokens_it_needs_holds_up_nobody_but_itself(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1, tokens_per_minute=6000)
    holder, unknown, known = map(cluster.process, "abc")
    holder.ask((0, 1, 0), tokens=1)
    assert unknown.ask((0, 1, 0)).granted_now == 0
    assert known.ask((0, 1, 0), tokens=1).granted_now == 0
    cluster.messages()
    holder.let_go()
    holder.ask()
    assert [name for name, _ in cluster.messages()] == [known.name]
    known.known, known.released = 1, 1
    assert known.ask().in_flight == 0
    assert unknown.ask((0, 1, 0), tokens=1).granted_now == 1


def test_tokens_are_charged_and_refunded_after_the_fact(make: Callable[..., Cluster]) -> None:
    cluster = make(tokens_per_minute=6000)
    process, other = cluster.process("a"), cluster.process("b")
    assert process.ask((0, 1, 0), tokens=6000).granted_now == 1
    assert other.ask((0, 1, 0), tokens=4000).granted_now == 0
    process.ask(charge=-5000)
    assert [name for name, _ in cluster.messages()] == [other.name]
    other.known = 1
    process.ask(charge=7000)
    assert 69 < other.ask((0, 1, 0), tokens=1000).retry_s <= 70


def test_a_rate_that_is_raised_forgets_nothing_and_does_not_wait_at_the_old_one(make: Callable[..., Cluster]) -> None:
    cluster = make()
    tight = cluster.process("a", requests_per_minute=1, tokens_per_minute=600)
    wide = cluster.process("b", requests_per_minute=6000, tokens_per_minute=6000)
    assert tight.ask((0, 1, 0), tokens=600).granted_now == 1
    assert wide.ask((0, 1, 0), tokens=5700).retry_s > 50
    tight.ask(goodbye=True)
    # 600 of its 6000 tokens are spent: 300 are missing.
    assert 2 < wide.ask((0, 1, 0), tokens=5700).retry_s <= 3


# What calls have learnt.


def test_a_pause_told_by_one_holds_all_and_says_for_how_long(make: Callable[..., Cluster]) -> None:
    cluster = make()
    process, other = cluster.process("a"), cluster.process("b")
    process.ask((0, 1, 0))
    process.ask(events=(f"x:0:{2 * MICRO}",))
    answer = other.ask((0, 1, 0))
    assert answer.granted_now == 0
    assert 1.5 < answer.paused_s <= 2
    assert 1.5 < answer.retry_s <= 2.1


class Port:
    """The breaker or the adaptive limit beside the class that it is a port of; time stands still for the latter."""

    def __init__(self, cluster: Cluster) -> None:
        self.process = cluster.process("a")
        self.calls: list[tuple[bool, int]] = []  # probe, epoch
        self.answer = self.process.ask(longest_s=0)

    def start(self) -> bool:
        self.answer = self.process.ask((0, 1, 0), longest_s=0)
        if self.answer.granted_now:
            self.calls.append((self.answer.probe == self.answer.granted, self.answer.epoch))
        else:
            self.answer = self.process.ask(longest_s=0)  # it does not wait
        return bool(self.answer.granted_now)

    def end(self, call: int, kind: str) -> None:
        probe, epoch = self.calls.pop(call)
        self.process.let_go()
        if kind != "u" or probe:
            event = f"{kind.upper() if probe else kind}:{epoch}:0"
            self.answer = self.process.ask(events=(event,), longest_s=0)
        else:
            self.answer = self.process.ask(longest_s=0)


CALLS = st.lists(
    st.tuples(st.sampled_from(["start", "start", "end"]), st.integers(0, 30), st.sampled_from("oooxfftu")),
    min_size=20,
    max_size=120,
)


@ONLY_THESE
@given(steps=CALLS)
def test_the_breaker_does_what_that_of_one_process_does(
    make: Callable[..., Cluster], steps: list[tuple[str, int, str]]
) -> None:
    port, original = Port(make()), CircuitBreaker()
    original.longest_s = 0.0
    calls = []
    for kind, number, outcome in steps:
        if kind == "start":
            opens_at = original.opens_at()
            may = opens_at is None or opens_at <= 0
            assert port.start() == may
            if may:
                calls.append(original.admit(0.0))
                assert port.calls[-1][0] == calls[-1]
        elif calls:
            probe = calls.pop(number % len(calls))
            if outcome == "u":
                original.unknown(probe=probe)
            elif outcome in "ft":
                original.failed(0.0, probe=probe)
            else:
                original.succeeded(probe=probe)
            port.end(number % (len(calls) + 1), outcome)
        assert BreakerState[BREAKER_STATES[port.answer.breaker]] is original.state
        assert port.answer.opened == original.opened


@ONLY_THESE
@given(ceiling=st.integers(1, 60), steps=CALLS)
def test_the_adaptive_limit_does_what_that_of_one_process_does(
    make: Callable[..., Cluster], ceiling: int, steps: list[tuple[str, int, str]]
) -> None:
    port, original = Port(make(max_concurrency=ceiling, adaptive=True)), AdaptiveLimit(ceiling)
    for kind, number, outcome in steps:
        if kind == "start" or not port.calls:
            # As full as can be, since else successes count for nothing.
            for _ in range(1 if number % 3 else 80):
                may = len(port.calls) < original.limit
                assert port.start() == may
                if not may:
                    break
        elif outcome in "oxt":
            # Never a timeout: the breaker, which that would open, stays out of it.
            told = "o" if outcome == "o" else "x"
            for _ in range(1 if number % 3 else len(port.calls)):
                call = number % len(port.calls)
                epoch = port.calls[call][1]
                if told == "o":
                    original.succeeded(0.0, len(port.calls), epoch)
                else:
                    original.overloaded(0.0, epoch)
                port.end(call, told)
                assert (port.answer.limit, port.answer.epoch) == (original.limit, original.epoch)
    assert port.answer.cap == ceiling


def test_an_adaptive_limit_that_nothing_held_back_yet_grows_in_steps_that_double(make: Callable[..., Cluster]) -> None:
    process, original = make(max_concurrency=60, adaptive=True).process("a"), AdaptiveLimit(60)
    limits = [process.ask((0, 60, 0)).limit]
    while limits[-1] < 60:
        for _ in range(original.limit):
            original.succeeded(0.0, process.held, 0)
        process.ask((0, 60, 0), events=("o:0:0",) * limits[-1])
        limits.append(process.ask((0, 60, 0)).limit)
        assert limits[-1] == original.limit
    assert limits == [10, 11, 13, 17, 25, 41, 60]


def test_an_adaptive_guard_without_a_cap_has_a_limit_of_its_own(make: Callable[..., Cluster]) -> None:
    answer = make(adaptive=True).process("a").ask((0, 50, 0))
    assert (answer.granted_now, answer.limit, answer.cap) == (10, 10, 0)


def test_an_open_breaker_lets_one_probe_through_in_all_and_stays_open_twice_as_long_if_it_fails(
    make: Callable[..., Cluster],
) -> None:
    cluster = make()
    process, other = cluster.process("a"), cluster.process("b")
    process.ask()
    other.ask((0, 1, 0))
    opened = process.ask(events=("f:0:0",) * 5, longest_s=0)
    assert (BREAKER_STATES[opened.breaker], opened.opened) == ("OPEN", 1)
    probe = process.ask((0, 3, 0))
    assert (probe.granted_now, probe.probe, BREAKER_STATES[probe.breaker]) == (1, 1, "HALF_OPEN")
    assert other.ask((0, 1, 0)).granted_now == 0
    process.let_go()
    failed = process.ask(events=("F:0:0",))
    assert (BREAKER_STATES[failed.breaker], failed.opened) == ("OPEN", 2)
    assert 9 < failed.probe_s <= 10
    assert other.ask((0, 1, 0)).granted_now == 0


def test_those_who_wait_are_told_when_the_breaker_opens(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1)
    process, other = cluster.process("a"), cluster.process("b")
    process.ask((0, 1, 0))
    other.ask((0, 1, 0))
    cluster.messages()
    process.ask(events=("f:0:0",) * 5)
    assert cluster.messages() == [(other.name, None)]


@pytest.mark.parametrize("way", ["lease lost", "goodbye", "cancelled"])
def test_the_probe_of_who_is_gone_is_given_to_another(make: Callable[..., Cluster], way: str) -> None:
    cluster = make()
    process, other = cluster.process("a"), cluster.process("b")
    process.ask(events=("f:0:0",) * 5, longest_s=0)
    assert process.ask((0, 1, 0)).probe == 1
    assert other.ask((0, 1, 0)).granted_now == 0
    if way == "lease lost":
        cluster.lose_lease(process)
    elif way == "goodbye":
        process.ask(goodbye=True)
    else:
        process.let_go()
        process.ask(events=("U:0:0",))
    answer = other.ask((0, 1, 0))
    assert (answer.granted, answer.probe) == (1, 1)
    other.let_go()
    assert BREAKER_STATES[other.ask(events=("O:0:0",)).breaker] == "CLOSED"


# Limits.


def test_the_tightest_limits_hold_until_the_one_who_wants_them_leaves(make: Callable[..., Cluster]) -> None:
    cluster = make()
    wide = cluster.process("a", max_concurrency=5, tokens_per_minute=6000)
    tight = cluster.process("b", max_concurrency=2, tokens_per_minute=600.5, requests_per_minute=60)
    off = cluster.process("c", max_concurrency=0)
    assert (wide.ask().cap, wide.ask().tokens_per_minute) == (5, 6000)
    tight.ask()
    off.ask()
    held = wide.ask()
    assert (held.cap, held.limit, held.tokens_per_minute) == (2, 2, 600.5)
    tight.ask(goodbye=True)
    relaxed = wide.ask()
    assert (relaxed.cap, relaxed.tokens_per_minute) == (5, 6000)
    cluster.lose_lease(wide)
    off.ask()
    assert off.ask().cap in {0, 5}


def test_ranks_follow_the_order_of_joining_and_close_up(make: Callable[..., Cluster]) -> None:
    cluster = make()
    first, second, third = map(cluster.process, "zya")
    assert [each.ask().rank for each in (first, second, third)] == [0, 1, 2]
    first.ask(goodbye=True)
    assert [each.ask().rank for each in (second, third)] == [0, 1]


# What was before.


@pytest.mark.parametrize("data", ["kept", "lost"])
def test_after_a_restart_nobody_goes_before_all_are_back(make: Callable[..., Cluster], data: str) -> None:
    cluster = make(max_concurrency=16)
    busy, idle, new = map(cluster.process, "abc")
    busy.ask()
    idle.ask()
    busy.ask()
    of_a_while_ago = cluster.client.dump(cluster.keys[0])
    busy.ask((0, 16, 0))
    cluster.run, cluster.uncertain_s = "second run", LEASE_S
    if data == "lost":
        cluster.client.delete(*cluster.keys)
    else:
        cluster.client.restore(cluster.keys[0], 60_000, of_a_while_ago, replace=True)
    waits = idle.ask((0, 16, 0))
    assert waits.granted_now == 0
    assert LEASE_S - 5 < waits.retry_s <= LEASE_S
    assert new.ask((0, 1, 0)).granted_now == 0  # one more, but none of those
    assert new.again().granted_now == 0
    cluster.messages()
    busy.let_go()
    assert busy.ask((0, 3, 0)).in_flight == 16
    handed = [name for name, _ in cluster.messages()]
    assert len(handed) + busy.held - 15 == 1


def test_those_who_were_members_are_waited_for_though_nobody_tells_of_them(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    idle, busy = cluster.process("a"), cluster.process("b")
    idle.ask()
    busy.ask((0, 1, 0))
    cluster.restart(data=True)
    idle.seen = busy.seen = 0  # neither has been one for long
    assert idle.ask((0, 1, 0)).granted_now == 0
    assert busy.ask().members == 2
    assert [name for name, _ in cluster.messages()] == [idle.name]


def test_who_asks_again_since_an_answer_was_lost_is_back_once(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    back, busy = cluster.process("a"), cluster.process("b")
    back.ask()
    busy.ask((0, 2, 0))
    back.ask()
    cluster.restart(data=False)
    fence = back.fence
    assert back.ask((0, 2, 0)).granted_now == 0
    assert back.again(fence=fence).granted == 0
    assert (busy.ask().in_flight, cluster.messages()) == (2, [])


def test_after_a_silence_of_all_nobody_goes_before_all_are_back(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    idle, alone = cluster.process("a"), cluster.process("b")
    idle.ask()
    alone.ask()
    cluster.move(-0.4 * LEASE_S, LAST)
    assert idle.ask((0, 1, 0)).granted_now == 1
    idle.let_go()
    idle.ask()
    cluster.move(-0.6 * LEASE_S, LAST)
    alone.known += 1  # started without Redis meanwhile
    waits = idle.ask((0, 2, 0))
    assert waits.granted_now == 0
    assert LEASE_S - 5 < waits.retry_s <= LEASE_S
    assert cluster.process("c").ask((0, 1, 0)).granted_now == 0
    assert alone.ask().in_flight == 2
    assert [name for name, _ in cluster.messages()] == [idle.name]


def test_who_is_alone_has_nobody_to_wait_for_after_a_silence(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=1)
    process = cluster.process("a")
    process.ask()
    cluster.move(-0.6 * LEASE_S, LAST)
    assert process.ask((0, 1, 0)).granted_now == 1


@pytest.mark.parametrize("others", ["told of", "not told of yet"])
def test_a_silence_while_some_are_to_come_back_does_not_make_them_forgotten(
    make: Callable[..., Cluster], others: str
) -> None:
    cluster = make(max_concurrency=2)
    first, second, busy = map(cluster.process, "abc")
    busy.ask((0, 2, 0))
    first.ask()
    second.ask()
    first.ask()
    cluster.restart(data=False)
    if others == "not told of yet":
        first, second = map(cluster.process, "de")
    first.ask((0, 1, 0))
    second.ask((0, 1, 0))
    cluster.move(-0.6 * LEASE_S, LAST)
    if others == "not told of yet":
        first.seen = second.seen = 0
    cluster.lose_lease(first)
    for _ in range(2):
        assert first.ask((0, 1, 0)).granted == 0
        assert second.ask((0, 1, 0)).granted == 0
    busy.ask()
    assert (busy.ask().in_flight, cluster.messages()) == (2, [])


def test_members_of_a_lost_state_are_waited_for_once_one_of_them_comes_into_a_new_one(
    make: Callable[..., Cluster],
) -> None:
    cluster = make(max_concurrency=3)
    idle, busy, new = map(cluster.process, "abc")
    idle.ask()
    busy.ask((0, 1, 0))
    idle.ask()
    cluster.client.delete(*cluster.keys)  # the server knows nothing of it
    assert new.ask((0, 1, 0)).granted_now == 1
    waits = idle.ask((0, 1, 0))
    assert (waits.lost, waits.granted_now) == (True, 0)
    assert LEASE_S - 5 < waits.retry_s <= LEASE_S
    assert new.ask((0, 1, 0)).granted_now == 0  # and is not one of those
    assert idle.ask((0, 1, 0)).granted_now == 0
    assert busy.ask().in_flight == 3
    assert [name for name, _ in cluster.messages()] == [idle.name]


def test_nobody_waits_longer_than_a_lease_for_those_who_do_not_come_back(make: Callable[..., Cluster]) -> None:
    cluster = make(max_concurrency=2)
    cluster.uncertain_s = 0.2
    process = cluster.process("a")
    answer = process.ask((0, 1, 0), lease_s=0.2)
    assert answer.granted_now == 0
    while not answer.granted:
        cluster.uncertain_s = 0.0
        answer = process.ask((0, 1, 0), lease_s=0.2)
    assert answer.in_flight == 1


def test_without_a_cap_nobody_needs_to_wait_for_others_to_come_back(make: Callable[..., Cluster]) -> None:
    cluster = make()
    cluster.uncertain_s = LEASE_S
    assert cluster.process("a").ask((0, 1, 0)).granted_now == 1


@pytest.mark.parametrize(("a_minute", "wait_s"), [(6, 10), (600, 0.1)])
def test_after_a_restart_rates_begin_empty(make: Callable[..., Cluster], a_minute: float, wait_s: float) -> None:
    cluster = make(requests_per_minute=a_minute)
    cluster.uncertain_s = 1.0
    process = cluster.process("a")
    assert wait_s * 0.8 < process.ask((0, 1, 0)).retry_s <= wait_s


@pytest.mark.parametrize("why", ["restart", "silence"])
def test_where_the_data_was_kept_only_what_came_in_meanwhile_may_be_spent(
    make: Callable[..., Cluster], why: str
) -> None:
    cluster = make(requests_per_minute=600, tokens_per_minute=6000)
    process = cluster.process("a")
    assert process.ask((0, 1, 0), tokens=3000).granted_now == 1
    process.ask()
    cluster.move(-20, LAST, NEXT_REQUEST, NEXT_TOKEN)
    if why == "restart":
        cluster.restart(data=True)
    # 2000 tokens have come in, and may have been spent; 3000 were there before.
    waits = process.ask((0, 1, 0), tokens=4500)
    assert waits.granted_now == 0
    assert 14 < waits.retry_s <= 15
    assert process.ask((0, 1, 0), tokens=2900).granted_now == 1


@pytest.mark.parametrize("why", ["restart", "silence"])
def test_requests_that_came_in_meanwhile_may_be_spent_too(make: Callable[..., Cluster], why: str) -> None:
    cluster = make(requests_per_minute=600)
    process = cluster.process("a")
    assert process.ask((0, 20, 0)).granted_now == 10
    process.ask()
    cluster.move(-20, LAST, NEXT_REQUEST)
    if why == "restart":
        cluster.restart(data=True)
    assert process.ask((0, 20, 0)).granted_now <= 1


@pytest.mark.parametrize("newer", ["answers", "process"])
def test_rates_begin_empty_where_the_data_is_older_than_what_a_process_was_told(
    make: Callable[..., Cluster], newer: str
) -> None:
    cluster = make(tokens_per_minute=6000)
    process = cluster.process("a")
    process.ask()
    of_a_while_ago = cluster.client.dump(cluster.keys[0])
    if newer == "process":
        process = cluster.process("b")
    process.ask((0, 1, 0), tokens=6000)
    process.ask()
    cluster.restart(data=True)
    cluster.client.restore(cluster.keys[0], 60_000, of_a_while_ago, replace=True)
    assert 9 < process.ask((0, 1, 0), tokens=1000).retry_s <= 10
    assert 9 < process.ask((0, 1, 0), tokens=1000).retry_s <= 10


@pytest.mark.parametrize("lost", ["state", "all but the state"])
def test_data_that_the_server_has_dropped_in_part_is_as_if_all_were_lost(
    make: Callable[..., Cluster], lost: str
) -> None:
    cluster = make(max_concurrency=2)
    busy, new = cluster.process("a"), cluster.process("b")
    busy.ask((0, 2, 0))
    waiting = cluster.process("c")
    waiting.ask((0, 1, 0))
    busy.ask()
    if lost == "state":
        cluster.client.delete(cluster.keys[0])
        assert new.ask((0, 1, 0)).granted_now == 0
        assert busy.ask().lost
        assert new.ask((0, 1, 0)).in_flight == 2
    else:
        cluster.client.delete(*cluster.keys[1:])
        busy.let_go()
        busy.ask()
        # Its lease is renewed in time, and its place with it.
        assert waiting.ask((0, 1, 0), lease_s=4 * LEASE_S).granted == 1


def test_time_goes_on_from_where_it_was_when_the_clock_is_set_back(make: Callable[..., Cluster]) -> None:
    cluster = make()
    process, other = cluster.process("a"), cluster.process("b")
    process.ask()
    cluster.move(3600, LAST)
    # By then the lease of the first was over; another's pause begins there.
    assert other.ask(events=(f"x:0:{MICRO}",)).members == 1
    assert 0.5 < other.ask((0, 1, 0)).paused_s <= 1


# Names.


def test_all_keys_of_a_guard_are_on_one_node_and_tell_nothing_of_it(make: Callable[..., Cluster]) -> None:
    name = exchange.digest("https://user:canary@api.example.com gpt")
    keys = exchange.keys("sluice", name)
    assert len({key_slot(key.encode()) for key in keys}) == 1
    assert len({key_slot(exchange.keys("sluice", exchange.digest(str(n)))[0].encode()) for n in range(50)}) > 40
    assert re.fullmatch("[0-9a-f]{24}", name)
    assert all(key.startswith(f"sluice:{{{name}}}:") and "canary" not in key for key in keys)
    cluster = make(max_concurrency=1)
    process, other = cluster.process("a"), cluster.process("b")
    process.ask((1, 1, 1))
    other.ask((1, 1, 1))
    found = set(cluster.client.scan_iter(f"*{cluster.name}*"))
    assert found == {key.encode() for key in cluster.keys}
    assert all(0 < cluster.client.pttl(key) <= 3_600_000 for key in found)
