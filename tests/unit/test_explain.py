"""What is read out of errors and logs: 60 real errors, logs of all shapes, and texts that only look like errors."""

import io
import re
import sys
from pathlib import Path

import httpx
import openai
import pytest
import sqlalchemy.exc
from rich.console import Console

from langflow_sluice.errors import SluiceError
from langflow_sluice.explain.diagnosis import Diagnosis
from langflow_sluice.explain.reading import HEAD, TAIL, blocks
from langflow_sluice.explain.scan import explain, explain_text
from langflow_sluice.explain.table import FOLLOWS, RECOGNISERS, diagnoses, recognise
from langflow_sluice.failures import diagnose_http
from langflow_sluice.postgres.failures import translate

if sys.version_info >= (3, 11):
    import re._constants as re_constants
    import re._parser as re_parser

    import tomllib
else:
    import sre_constants as re_constants
    import sre_parse as re_parser

    import tomli as tomllib

CASES = tomllib.loads(Path(__file__).with_name("explain_cases.toml").read_text("utf-8"))
KNOWN = {each.cause: each for each in diagnoses()}


def found(text):
    """The causes in a text, with how often each is there."""
    return {each.diagnosis.cause: each.count for each in explain_text(text).findings}


def roots(text):
    return {each.diagnosis.cause: each.follows for each in explain_text(text).findings}


@pytest.mark.parametrize("case", CASES["real"], ids=lambda case: f"{case['thread']}-{case['cause']}")
def test_a_real_error_is_traced_to_its_dependency_and_cause(case):
    root = explain_text(case["text"]).root
    assert (root.diagnosis.dependency, root.diagnosis.cause) == (case["dependency"], case["cause"])
    assert root.diagnosis.happened
    assert root.diagnosis.fix
    assert root.diagnosis.where


def test_there_are_enough_real_errors_of_enough_dependencies():
    assert len({case["thread"] for case in CASES["real"]}) >= 60
    assert len({case["cause"] for case in CASES["real"]}) >= 35
    assert len(CASES["unknown"]) >= 8


@pytest.mark.parametrize("case", [*CASES["unknown"], *CASES["harmless"]], ids=lambda case: case["about"])
def test_what_is_no_error_of_load_is_unknown(case):
    explanation = explain_text(case["text"])
    assert not explanation.recognised
    assert explanation.root is None


def test_an_unknown_text_has_at_least_the_name_of_its_last_exception():
    assert explain_text(CASES["unknown"][0]["text"]).last_exception == "KeyError"


@pytest.mark.parametrize("kind", [httpx.ConnectTimeout, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout])
def test_a_timeout_is_told_as_it_is_told_at_run_time(kind):
    failure = diagnose_http(kind(""), "The provider")
    phase = kind.__name__.removesuffix("Timeout").lower()
    for text in (f"httpx.{kind.__name__}", f"{kind.__name__}: timed out", str(failure.error)):
        diagnosis = explain_text(text).root.diagnosis
        assert diagnosis.cause == f"provider_{phase}_timeout"
        assert diagnosis.happened == failure.error.message
        assert diagnosis.fix.startswith(failure.error.hint)
        assert diagnosis.code == failure.error.code


def refusal(status, code=None):
    request = httpx.Request("POST", "https://api.example.com/v1")
    response = httpx.Response(status, json={"error": {"code": code}}, request=request)
    client = openai.OpenAI(api_key="canary-key", http_client=httpx.Client())
    return client._make_status_error_from_response(response)


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (429, None, "provider_throttled"),
        (429, "insufficient_quota", "provider_quota"),
        (529, None, "provider_overloaded"),
        (500, None, "provider_failed"),
        (401, None, "provider_credential"),
        (404, None, "provider_unknown_model"),
    ],
)
def test_what_a_provider_answers_is_recognised_from_its_own_words_and_from_sluices(status, code, cause):
    error = refusal(status, code)
    failure = diagnose_http(error, "api.example.com")
    for text in (
        f"{type(error).__name__}: {error}",
        str(failure.error),
        f"Error building Component X: {failure.error}",
    ):
        diagnosis = explain_text(text).root.diagnosis
        assert diagnosis.cause == cause, text
        assert diagnosis.code == failure.error.code
        assert diagnosis.fix.startswith(failure.error.hint)


class Refusal(Exception):
    def __init__(self, sqlstate, words):
        super().__init__(words)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "causes"),
    [
        (Refusal("53300", "sorry, too many clients already"), {"too_many_clients"}),
        (Refusal("53300", "remaining connection slots are reserved for x"), {"connection_slots_reserved"}),
        (Refusal("53300", "no more connections allowed (max_client_conn)"), {"pooler_full"}),
        (Refusal("08P01", "query_wait_timeout"), {"query_wait_timeout"}),
        (Refusal("42P05", 'prepared statement "a" already exists'), {"prepared_statement_exists"}),
        (Refusal("26000", 'prepared statement "a" does not exist'), {"prepared_statement_missing"}),
        (Refusal("57014", "canceling statement due to statement timeout"), {"statement_timeout"}),
        (Refusal("40P01", "deadlock detected"), {"database_deadlock"}),
        (Refusal("55P03", "canceling statement due to lock timeout"), {"lock_timeout"}),
        (Refusal("55P03", 'could not obtain lock on row in relation "a"'), {"lock_timeout"}),
        (
            Refusal("25P03", "terminating connection due to idle-in-transaction timeout"),
            {"idle_in_transaction_timeout"},
        ),
        (Refusal("28P01", 'password authentication failed for user "x"'), {"database_credential"}),
        (Refusal("22000", "different vector dimensions 3 and 4"), {"vector_dimensions"}),
        (Refusal("42704", 'type "vector" does not exist'), {"missing_pgvector"}),
        (Refusal("08006", "connection timeout expired"), {"database_unreachable"}),
        (
            Refusal("57P03", "the database system is starting up"),
            {"database_unreachable", "database_closed_connection"},
        ),
        (sqlalchemy.exc.TimeoutError("QueuePool limit of size 1 overflow 2 reached"), {"sqlalchemy_pool_timeout"}),
    ],
    ids=lambda each: " or ".join(sorted(each)) if isinstance(each, set) else str(each),
)
def test_what_postgresql_says_is_recognised_from_its_own_words_and_from_sluices(error, causes):
    failure = translate(error, target="db.example.com:5432/rag")
    for text in (f"(psycopg.errors.X) ERROR: {error}", str(failure)):
        diagnosis = explain_text(text).root.diagnosis
        assert diagnosis.cause in causes, text
        assert diagnosis.code == failure.code
        assert diagnosis.fix.startswith(failure.hint)


def test_the_root_of_chained_tracebacks_counts_and_not_what_was_raised_from_it():
    text = """Traceback (most recent call last):
  File "/app/.venv/lib/python3.12/site-packages/httpcore/_async/connection.py", line 1, in connect
    raise to_exc(exc) from exc
httpcore.ConnectTimeout

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/.venv/lib/python3.12/site-packages/openai/_base_client.py", line 1, in request
    except httpx.ReadTimeout as err:
httpx.ConnectTimeout

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/flow.py", line 1, in run
    raise APITimeoutError(request=request) from err
openai.APITimeoutError: Request timed out.
"""
    assert found(text) == {"provider_connect_timeout": 1}
    assert found(text * 3) == {"provider_connect_timeout": 3}
    # Also where the beginning was not copied.
    assert found("".join(text.splitlines(keepends=True)[3:])) == {"provider_connect_timeout": 1}


@pytest.mark.parametrize("prefix", ["", "web_1  | ", "2026-01-01 10:00:00 | ERROR | ", "    ", "  | "])
def test_tracebacks_are_read_behind_the_prefix_of_a_log(prefix):
    lines = (
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.12/site-packages/redis/connection.py", line 1, in connect',
        "    except asyncio.TimeoutError:",
        "ConnectionRefusedError: [Errno 111] Connection refused",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        "redis.exceptions.ConnectionError: Error 111 connecting to cache:6379. Connection refused.",
    )
    assert found("\n".join(prefix + line for line in lines)) == {"redis_unreachable": 1}


@pytest.mark.parametrize(
    ("package", "cause"),
    [
        ("asyncpg", "database_unreachable"),
        ("redis", "redis_timeout"),
        ("httpcore", "provider_timeout"),
        ("mypackage", "asyncio_timeout"),
    ],
)
def test_a_bare_timeout_is_explained_by_the_client_whose_frames_led_to_it(package, cause):
    text = f"""Traceback (most recent call last):
  File "/app/lib/python3.12/site-packages/{package}/connect.py", line 1, in connect
  File "/usr/lib/python3.12/asyncio/timeouts.py", line 115, in __aexit__
    raise TimeoutError from exc_val
TimeoutError
"""
    assert found(text) == {cause: 1}


def test_a_traceback_in_a_line_of_json_is_read_to_its_end():
    text = (
        r'{"event": "error", "exception": "Traceback (most recent call last):\n  File \"/app/x.py\", line 1\n'
        r'    except httpx.ReadTimeout:\npsycopg.errors.TooManyConnections: sorry, too many clients already\n"}'
    )
    assert found(f"{text}\n{text}\n") == {"too_many_clients": 2}


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("coloured", [False, True])
def test_pretty_tracebacks_in_boxes_and_colours_are_read(width, coloured):
    pretty = io.StringIO()
    console = Console(file=pretty, width=width, force_terminal=coloured)
    try:
        try:
            shown = "Traceback (most recent call last):\nhttpx.ReadTimeout"
            raise httpx.ConnectTimeout(shown[:0])
        except httpx.TimeoutException as error:
            raise openai.APITimeoutError(httpx.Request("GET", "http://x")) from error
    except openai.OpenAIError:
        console.print_exception(show_locals=True)
    assert ("\x1b[" in pretty.getvalue()) == coloured
    assert found(pretty.getvalue()) == {"provider_connect_timeout": 1}


def test_the_most_frequent_cause_stands_first_and_the_likely_root_is_marked():
    log = (
        "INFO start\n"
        + "ERROR sqlalchemy.exc.TimeoutError: QueuePool limit of size 20 overflow 30 reached, connection timed out\n"
        * 2
        + "[2026-01-01 10:00:00] [1] [CRITICAL] WORKER TIMEOUT (pid:7)\n" * 5
        + "[2026-01-01 10:00:01] [1] [ERROR] Worker (pid:7) was sent SIGKILL! Perhaps out of memory?\n" * 5
        + 'nginx: "POST /api/v1/run/rag HTTP/1.1" 504 160\n'
    )
    explanation = explain_text(log)
    assert [(each.diagnosis.cause, each.count, each.first_line) for each in explanation.findings] == [
        ("worker_timeout", 5, 4),
        ("worker_killed", 5, 9),
        ("sqlalchemy_pool_timeout", 2, 2),
        ("gateway_timeout", 1, 14),
    ]
    assert explanation.root.diagnosis.cause == "sqlalchemy_pool_timeout"
    assert {each.diagnosis.cause: each.follows for each in explanation.findings} == {
        "worker_timeout": "sqlalchemy_pool_timeout",
        "worker_killed": "worker_timeout",
        "sqlalchemy_pool_timeout": "",
        "gateway_timeout": "worker_killed",
    }
    assert explanation.lines == 14


def test_what_came_later_is_no_root():
    log = "[CRITICAL] WORKER TIMEOUT (pid:7)\nERROR: QueuePool limit of size 20 overflow 30 reached, timed out\n"
    assert roots(log) == {"worker_timeout": "", "sqlalchemy_pool_timeout": ""}


def test_there_is_a_root_even_where_causes_could_come_from_one_another_in_a_circle():
    text = (
        r"Traceback (most recent call last):\nX: terminating connection due to idle-in-transaction timeout\n"
        r"Traceback (most recent call last):\nX: QueuePool limit of size 1 overflow 1 reached\n"
        r"Traceback (most recent call last):\nX: WORKER TIMEOUT (pid:7)"
    )
    explanation = explain_text(text)
    assert len(explanation.findings) == 3
    assert explanation.root is not None


def test_several_lines_of_one_message_count_once_and_records_of_a_log_each():
    message = (
        "Traceback (most recent call last):\n"
        '  File "/app/x.py", line 1, in connect\n'
        'psycopg.OperationalError: connection failed: connection to server at "::1", port 5432 failed: FATAL:  sorry, '
        "too many clients already\n"
        "Multiple connection attempts failed. All failures were:\n"
        "- host: 'localhost', port: '5432': FATAL:  sorry, too many clients already\n"
    )
    assert found(message) == {"too_many_clients": 1}
    record = "2026-01-01 10:00:00 ERROR FATAL: sorry, too many clients already\n"
    assert found(message + record * 3) == {"too_many_clients": 4}


def test_a_line_that_a_terminal_has_wrapped_is_put_together():
    wrapped = "sqlalchemy.exc.TimeoutError: QueuePool limit of size 5\n    overflow 10 reached, connection timed out\n"
    assert found(wrapped) == {"sqlalchemy_pool_timeout": 1}


class Endless(io.RawIOBase):
    """A log that is never in memory as a whole."""

    def __init__(self, piece, times):
        super().__init__()
        self.piece, self.left = piece, times

    def readable(self):
        return True

    def readinto(self, buffer):
        if not self.left:
            return 0
        self.left -= 1
        buffer[: len(self.piece)] = self.piece
        return len(self.piece)


def test_a_log_of_many_lines_is_read_in_pieces():
    piece = b"INFO all is well\n" * 400
    sizes = [sum(map(len, lines)) for lines in blocks(io.BufferedReader(Endless(piece, 100), 8192))]
    assert len(sizes) > 5
    assert max(sizes) < 100_000
    explanation = explain(io.BufferedReader(Endless(piece, 100), 8192))
    assert (explanation.recognised, explanation.lines) == (False, 40_000)


def test_of_a_line_without_end_only_beginning_and_end_are_kept():
    stream = io.BufferedReader(Endless(b"a" * 8000, 1000), 8192)  # 8 MB without a line's end
    (lines,) = blocks(stream)
    assert [len(line) for line in lines] == [HEAD + TAIL + 5]
    hostile = b"x" * 3_000_000 + b" FATAL: sorry, too many clients already\nFATAL: query_wait_timeout\n"
    explanation = explain(io.BytesIO(hostile))
    assert {each.diagnosis.cause: each.first_line for each in explanation.findings} == {
        "too_many_clients": 1,
        "query_wait_timeout": 2,
    }


@pytest.mark.parametrize("size", [HEAD - 1, HEAD, HEAD + 1, HEAD + TAIL - 1, HEAD + TAIL, HEAD + TAIL + 1])
def test_lines_about_as_long_as_is_looked_at_are_counted_as_one(size):
    for end in (b"\n", b"\r\n", b""):
        lines = [line for block in blocks(io.BytesIO(b"a" * size + end + b"b\n")) for line in block]
        assert len(lines) == (2 if end else 1)
        assert abs(len(lines[0]) - size) <= 6


def steps(parsed):
    """At most so many tries are made for each place of a text at which a pattern may begin."""
    total = 1
    for kind, value in parsed:
        if kind in {re_constants.MAX_REPEAT, re_constants.MIN_REPEAT}:
            least, most, body = value
            assert most is not re_constants.MAXREPEAT, "an unbounded repeat"
            total = total * max(1, most - least + 1) * (steps(body) if most > 1 else 1) + steps(body)
        elif kind is re_constants.BRANCH:
            total *= sum(steps(each) for each in value[1])
        elif kind is re_constants.SUBPATTERN:
            total *= steps(value[-1])
        elif kind in {re_constants.ASSERT, re_constants.ASSERT_NOT}:
            total *= steps(value[1])
    return total


@pytest.mark.parametrize("each", RECOGNISERS, ids=lambda each: each.diagnosis.cause)
def test_no_line_can_keep_a_pattern_busy(each):
    for alternative in alternatives(each.pattern.pattern):
        assert steps(re_parser.parse(alternative)) <= 10_000, alternative


def alternatives(pattern):
    """The alternatives of a pattern at its top: each is tried by itself."""
    depth, start, in_set = 0, 0, False
    for at, char in enumerate(pattern):
        if at and pattern[at - 1] == "\\" and pattern[at - 2] != "\\":
            continue
        if char in "[]":
            in_set = char == "["
        elif not in_set:
            depth += {"(": 1, ")": -1}.get(char, 0)
            if char == "|" and not depth:
                yield pattern[start:at]
                start = at + 1
    yield pattern[start:]


@pytest.mark.parametrize("case", CASES["real"], ids=lambda case: f"{case['thread']}-{case['cause']}")
def test_the_words_of_a_recogniser_never_hide_what_its_pattern_matches(case):
    for line in case["text"].splitlines():
        for each in RECOGNISERS:
            if each.pattern.search(line):
                assert each.search(line, line.lower()), (each.diagnosis.cause, line)


def test_every_diagnosis_says_all_there_is_to_say_once():
    fields = ("cause", "dependency", "happened", "fix", "where")
    for diagnosis in diagnoses():
        assert isinstance(diagnosis, Diagnosis)
        assert all(getattr(diagnosis, name) for name in fields), diagnosis
        assert re.fullmatch(r"[a-z_]+", diagnosis.cause)
        assert diagnosis.fix[-1] in ".?"
    assert set(FOLLOWS) <= set(KNOWN)
    assert set().union(*FOLLOWS.values()) <= set(KNOWN)
    codes = {each.code for each in all_errors(SluiceError)}
    assert {each.code for each in diagnoses()} - {""} <= codes


def all_errors(kind):
    return [kind, *(each for child in kind.__subclasses__() for each in all_errors(child))]


def test_a_line_is_about_one_cause_only():
    line = (
        "openai.InternalServerError: Error code: 504 - {'error': 'litellm.Timeout: APITimeoutError - Request timed out."
        " Error_str: Request timed out. - timeout value=60.0, time taken=60.01 seconds'}"
    )
    assert found(line) == {"provider_failed": 1}
    assert recognise("") is None
