from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from langflow_sluice.load.call import CUT_OFF, Failure, judged
from langflow_sluice.load.causes import Hidden, causes_of
from langflow_sluice.load.drive import Drive, latency_of
from langflow_sluice.load.plan import Asked, StagePlan
from langflow_sluice.load.results import Latency

AGES_S = 60.0


def answer(*results: Any) -> bytes:
    return json.dumps({"outputs": [{"outputs": [{"results": {"out": each}} for each in results]}]}).encode()


def closed(at_once: int, requests: int) -> StagePlan:
    return StagePlan("closed loop", at_once, requests)


def drive(plan: StagePlan, send: Any, stop: asyncio.Event | None = None, max_seconds: float = AGES_S) -> Drive:
    return Drive(plan, send, max_seconds=max_seconds, stop=stop or asyncio.Event())


@pytest.mark.parametrize(
    "result",
    [
        {"text": "Yes", "error": False, "category": "message"},
        {"data": {"text": "Yes"}},
        {"data": {"rows": 3}},
        [{"a": 1}],
        "text",
    ],
)
def test_an_answer_with_a_result_has_succeeded(result: Any) -> None:
    assert judged(200, answer(result)) is None


@pytest.mark.parametrize(
    "body",
    [
        *(answer(), answer({"text": "  "}), answer({"data": {}}), answer({}), answer([]), answer(None)),
        *(
            b"{}",
            b"[]",
            b"<html>",
            b'{"outputs": []}',
            b'{"outputs": [null]}',
            b'{"outputs": [{"outputs": [null, 5]}]}',
        ),
    ],
)
def test_an_answer_without_a_result_has_failed_in_spite_of_its_status(body: bytes) -> None:
    assert judged(200, body) == Failure("no_result", status=200)


@pytest.mark.parametrize(
    "result",
    [
        {"text": "429 Too Many", "error": True},
        {"text": "429 Too Many", "category": "error"},
        {"text": "429 Too Many", "data": {"error": True}},
        {"data": {"category": "error", "text": "429 Too Many"}},
    ],
)
def test_a_message_that_says_it_is_an_error_has_failed(result: Any) -> None:
    assert judged(200, answer({"text": "fine"}, result)) == Failure("error", "429 Too Many", 200)


def test_a_failed_runs_own_words_are_found_in_their_wrapping() -> None:
    body = json.dumps({"detail": json.dumps({"message": "Error running graph: boom"})}).encode()
    assert judged(500, body) == Failure("error", "Error running graph: boom", 500)
    assert judged(502, b"<h1>Bad Gateway</h1>") == Failure("error", "<h1>Bad Gateway</h1>", 502)


def test_percentiles_are_the_nearest_ranks_of_all_times() -> None:
    assert latency_of([]) == Latency()
    assert latency_of([3.0]) == Latency(3.0, 3.0, 3.0, 3.0, 3.0, 3.0)
    assert latency_of([n / 100 for n in range(100, 0, -1)]) == Latency(0.505, 0.5, 0.9, 0.95, 0.99, 1.0)
    assert latency_of([1.0, 2.0, 3.0, 4.0]).p50_s == 2.0


async def test_a_closed_loop_keeps_as_many_in_flight_as_asked_for_and_makes_each_call_once() -> None:
    async def send() -> None:
        seen.append(under_way.in_flight)
        await asyncio.sleep(0)

    seen: list[int] = []
    under_way = drive(closed(4, 25), send)
    driven = await under_way.run()
    assert len(driven.calls) == len(seen) == 25
    assert driven.peak == max(seen) == 4
    assert (driven.unsent, under_way.in_flight, under_way.done, under_way.failed) == (0, 0, 25, 0)


async def test_an_open_loop_shows_a_stall_that_a_closed_loop_hides() -> None:
    """Both servers stand still once for half a second; see G. Tene, "How NOT to Measure Latency"."""

    def stalling() -> Any:
        runs = asyncio.Event()
        runs.set()
        count = 0

        async def send() -> None:
            nonlocal count
            count += 1
            if count == 20:
                runs.clear()
                asyncio.get_running_loop().call_later(0.5, runs.set)
            await runs.wait()

        return send

    caller = await drive(closed(1, 60), stalling()).run()
    due = await drive(StagePlan("open loop", 200, 60, 100.0, "even"), stalling()).run()
    held_back = await drive(StagePlan("open loop", 1, 60, 100.0, "even"), stalling()).run()
    assert sum(call.seconds > 0.1 for call in caller.calls) == 1
    assert sum(call.seconds > 0.1 for call in due.calls) > 20
    # Also where they could not be sent, since no more were let into flight at once.
    assert sum(call.seconds > 0.1 for call in held_back.calls) > 20
    assert sum(call.own_s > 0.1 for call in held_back.calls) == 1
    assert (due.unsent, held_back.peak) == (0, 1)


async def test_when_the_time_is_over_calls_under_way_are_cut_off_and_the_others_unsent() -> None:
    driven = await drive(closed(3, 10), asyncio.Event().wait, max_seconds=0.05).run()
    assert [call.failure for call in driven.calls] == [CUT_OFF] * 3
    assert driven.unsent == 7


async def test_calls_of_an_open_loop_that_are_not_due_when_it_is_stopped_are_unsent() -> None:
    stop = asyncio.Event()

    async def send() -> None:
        stop.set()

    driven = await drive(StagePlan("open loop", 5, 5, 0.001, "even"), send, stop).run()
    assert (len(driven.calls), driven.calls[0].failure, driven.unsent) == (1, None, 4)


async def test_a_cancelled_drive_leaves_no_call_behind() -> None:
    begun = asyncio.Event()

    async def send() -> None:
        begun.set()
        await asyncio.Event().wait()

    under_way = drive(closed(3, 10), send)
    task = asyncio.ensure_future(under_way.run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert under_way.in_flight == 0
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_of_the_driver_itself_fails_its_call_and_no_other() -> None:
    async def send() -> None:
        if under_way.done == 1:
            raise ZeroDivisionError("canary")

    under_way = drive(closed(1, 4), send)
    failures = [call.failure for call in (await under_way.run()).calls if call.failure is not None]
    assert [failure.kind for failure in failures] == ["error"]
    assert "ZeroDivisionError" in failures[0].text


def test_failures_are_grouped_by_what_explain_says_of_them() -> None:
    slots = "FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute"
    failures = [
        Failure("error", "Error building Component X: something odd", 500),
        *(Failure("error", f"call {number}: {slots}", 500) for number in range(3)),
        Failure("client_timeout"),
        Failure("client_timeout"),
        Failure("error", "Error code: 429 - {'error': {'message': 'Rate limit reached'}}", 500),
        CUT_OFF,
    ]
    causes = causes_of(failures, Hidden(()))
    assert [(cause.code, cause.dependency, cause.count) for cause in causes] == [
        ("connection_slots_reserved", "database", 3),
        ("client_timeout", "langflow", 2),
        ("unknown", "unknown", 1),
        ("provider_throttled", "provider", 1),
        ("cut_off", "unknown", 1),
    ]
    assert causes[0].is_load
    assert "stock PGVector nodes" in causes[0].fix
    assert causes[2].example == "Error building Component X: something odd"


def test_every_cause_that_explain_knows_has_a_dependency() -> None:
    from langflow_sluice.explain.table import diagnoses
    from langflow_sluice.load.causes import _areas

    known = {"database", "provider", "redis", "langflow", "guard", "network"}
    assert {_areas()[diagnosis.cause] for diagnosis in diagnoses()} == known


def test_errors_that_quote_what_was_asked_or_a_key_are_shown_without() -> None:
    question = 'Who signed the "Rotterdam" contract?\nAnd when did they sign?'
    hidden = Hidden.of(Asked((question,), {"Model-1": {"api_key": "canary-key-of-tweaks", "model": "m"}}), "canary-own")
    quoting = f"input={question!r} {json.dumps(question)} And when did they sign? canary-key-of-tweaks canary-own odd"
    (cause,) = causes_of([Failure("error", quoting, 500)], hidden)
    for secret in ("Rotterdam", "when did they", "canary"):
        assert secret not in cause.example
    assert cause.example.endswith("odd")


def test_a_question_that_is_a_word_of_the_error_does_not_hide_its_cause() -> None:
    hidden = Hidden.of(Asked(("clients",)))
    (cause,) = causes_of([Failure("error", "FATAL: sorry, too many clients already", 500)], hidden)
    assert cause.code == "too_many_clients"
    assert "clients" not in cause.example


QUESTION = "Which captains of the Blaue Schiffsgesellschaft für Öl signed the Rotterdam charter, and why did they then?"


@pytest.mark.parametrize(
    "quoted",
    [
        *(QUESTION, QUESTION[:60], QUESTION[17:48], QUESTION[-40:]),
        *(QUESTION.replace(" ", between) for between in ("\n   ", "\\n", "  ", " \x1b[31m", "\u200b ")),
        *(json.dumps(QUESTION), json.dumps(json.dumps(QUESTION)), ascii(QUESTION), repr(QUESTION.replace(" ", "\n"))),
    ],
)
@pytest.mark.parametrize("where", ["input", "tweak"])
def test_a_part_of_what_was_asked_is_hidden_however_it_is_quoted(quoted: str, where: str) -> None:
    asked = Asked((QUESTION,)) if where == "input" else Asked(("Hello",), {"Prompt-1": {"template": ["Be", QUESTION]}})
    (cause,) = causes_of([Failure("error", f"Error building X: was asked <{quoted}> oddly", 500)], Hidden.of(asked))
    begins, _, ends = cause.example.partition("***")
    assert begins.strip("\"\\' ") == "Error building X: was asked <"
    assert ends.strip("\"\\?' ") == "> oddly"


def test_the_name_of_a_model_is_no_secret_though_it_is_a_tweaks_value() -> None:
    hidden = Hidden.of(Asked(("Hello",), {"Model-1": {"model": "gpt-9-mini", "api_key": "key-9-mini"}}))
    assert hidden.out_of("The model gpt-9-mini does not know key-9-mini") == "The model gpt-9-mini does not know ***"


def test_a_short_question_is_hidden_with_other_spaces_too() -> None:
    assert Hidden.of(Asked(("Who  is  it?",))).out_of("asked: Who is it?") == "asked: ***"


@pytest.mark.parametrize("at", range(-40, 41, 5))
@pytest.mark.parametrize("of", ["head", "tail"])
def test_a_long_error_is_hidden_before_it_is_cut(at: int, of: str) -> None:
    secret, most = "canaries sing in the old harbour at dawn, and sk-canary-0123456789", 4000
    filler = "word " * 4000
    place = most + at if of == "head" else len(filler) - most + at
    text = f"{filler[:place]} {secret} {filler[place:]}"
    hidden = Hidden.of(Asked((secret,)))
    for body, status in ((text.encode(), 500), (answer({"text": text, "error": True}), 200)):
        failure = judged(status, body, hidden)
        assert failure is not None
        assert len(failure.text) <= 8001
        assert {each for each in failure.text.split() if each not in "word" and each.strip("*")} == set()


def test_an_error_cannot_steer_a_terminal_and_can_be_written() -> None:
    evil = "Error building \x1b[2J\x1b]0;owned\x07X:\x9b31m\x1b odd\x08\r\ntwice\u2028\u202e\ud800 港"
    for text in (evil, f"{evil} FATAL: sorry, too many clients already"):
        (cause,) = causes_of([Failure("error", text, 500)], Hidden(()))
        assert cause.example.isprintable()
        assert cause.example.encode()
    (cause,) = causes_of([Failure("error", evil, 500)], Hidden(()))
    assert cause.example == "Error building X:? odd? twice ? 港"
