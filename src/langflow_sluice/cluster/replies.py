"""What Redis replies beside the script's answers: which run of the server it is, and what an error is about."""

from __future__ import annotations

import math
import re
from typing import Any

from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from langflow_sluice.cluster.exchange import script

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


def load_script(connection: Any) -> bytes:
    """Makes the script known to the server; returns the name by which it is called."""
    connection.send_command("SCRIPT", "LOAD", script())
    sha: bytes = connection.read_response()
    return sha


def code_of(error: Exception) -> str:
    """The word in capitals that an answer of Redis begins with, of the innermost command where a script failed."""
    text = str(error)
    within = re.search(r"(?:^|[ :])-([A-Z]{2,})\b", text)
    if within:
        return within[1]
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
