"""What Redis replies beside the script's answers: which run of the server it is, and what an error is about."""

from __future__ import annotations

import math
import re
from typing import Any

from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from langflow_sluice.cluster.exchange import script

# Set by whoever comes first to a Redis without data; kept for so long after the last process has looked at it.
_MARK_KEPT_S = 86_400
# A login that may not use the mark, or a mark that is not ours: then it tells nothing.
_NO_MARK = frozenset({"NOPERM", "WRONGTYPE"})

UNKNOWN_RUN = "unknown"
UNEXPECTED = "unexpected error"


def run_of(connection: Any) -> tuple[str, float]:
    """The server's run, and for how long it has been up, in seconds; one that does not tell has been up for ever."""
    connection.send_command("INFO", "server")
    try:
        told = connection.read_response()
    except ResponseError:  # some do not let their clients ask
        return UNKNOWN_RUN, math.inf
    fields = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
    return fields.get("run_id", UNKNOWN_RUN), float(fields.get("uptime_in_seconds", math.inf))


def kept_s(connection: Any, prefix: str) -> float:
    """For how long, in seconds, Redis has kept what it was told at least; 0 where that cannot be told.

    A mark without which data was lost since: all of it was removed, it was evicted, or this is another server.

    Raises:
        RedisError: It cannot be asked.
    """
    connection.send_command("TIME")
    seconds, micros = connection.read_response()
    now = int(seconds) * 1_000_000 + int(micros)
    mark = f"{prefix}:epoch"
    commands = (("SET", mark, now, "NX", "EX", _MARK_KEPT_S), ("GET", mark), ("EXPIRE", mark, _MARK_KEPT_S))
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    told: list[Any] = []
    for _ in commands:
        try:
            told.append(connection.read_response())
        except ResponseError as error:  # noqa: PERF203 - all are read before one is raised
            told.append(error)
    for each in told:
        if isinstance(each, ResponseError) and code_of(each) not in _NO_MARK:
            raise each
    since = told[1]
    return max(0, now - int(since)) / 1e6 if isinstance(since, bytes) and since.isdigit() else 0.0


def load_script(connection: Any) -> bytes:
    """Makes the script known to the server; returns the name by which it is called."""
    connection.send_command("SCRIPT", "LOAD", script())
    sha: bytes = connection.read_response()
    return sha


def code_of(error: Exception) -> str:
    """The word in capitals that an answer of Redis begins with, of the innermost command where a script failed."""
    text = str(error)
    within = re.search(r"(?:^|[ :])-([A-Z]{2,})\b|@user_script: ?\d+: ([A-Z]{2,})\b", text)
    if within:
        return within[1] or within[2]
    code = getattr(error, "status_code", None) or text.split(" ", 1)[0]
    return code if code.isupper() else ""


def reason_of(error: Exception) -> str:
    """Why Redis could not be asked, in a few words without secrets."""
    if isinstance(error, AuthenticationError):
        return "it refuses the login"
    if isinstance(error, (RedisTimeout, TimeoutError)):
        return "no answer in time"
    if isinstance(error, ResponseError):
        return f"it answers {code_of(error)}" if code_of(error) else UNEXPECTED
    if isinstance(error, (RedisConnectionError, OSError)):
        return "no connection"
    return UNEXPECTED
