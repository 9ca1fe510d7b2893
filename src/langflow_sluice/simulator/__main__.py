"""``python -m langflow_sluice.simulator``: the simulated provider in a process of its own.

Announces ``{"host": ..., "port": ..., "base_url": ...}`` as one line of JSON on standard output once it listens, and
says nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput
from langflow_sluice.simulator.control import KEYS_VARIABLE
from langflow_sluice.simulator.settings import FAULTS, ProviderSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import uvicorn

    from langflow_sluice.simulator.answers import AnswerPolicy

# Requests under way get a second (the server's grace); whatever is left then must not keep the process alive.
_HARD_EXIT_S = 3.0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m langflow_sluice.simulator",
        description="A simulated model provider: OpenAI's, Anthropic's and Ollama's protocols, one real capacity.",
        epilog=f"API keys to accept are taken from {KEYS_VARIABLE}, a JSON list; without it every request is accepted.",
    )
    defaults = ProviderSettings()
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--slots", type=int, help=f"chat requests served at once ({defaults.slots})")
    parser.add_argument("--service-s", type=float, help=f"seconds a chat request takes ({defaults.service_s})")
    parser.add_argument("--retry-after-s", type=float, help=f"announced with a 429 ({defaults.retry_after_s})")
    parser.add_argument("--embedding-slots", type=int, help=f"embeddings requests at once ({defaults.embedding_slots})")
    parser.add_argument("--dimensions", type=int, help=f"length of embeddings ({defaults.dimensions})")
    parser.add_argument("--fault", help=f"status:<code>, {', '.join(FAULTS[:-1])} or {FAULTS[-1]}")
    parser.add_argument("--settings", type=json.loads, default={}, help="all settings as one JSON object")
    parser.add_argument("--policy", help="the answer policy as module:function")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> ProviderSettings:
    flags = ("slots", "service_s", "retry_after_s", "embedding_slots", "dimensions", "fault")
    given = {name: getattr(arguments, name) for name in flags if getattr(arguments, name) is not None}
    values: dict[str, Any] = {**arguments.settings, **given}
    # Out of the environment at once: nothing that this process starts or prints needs them.
    keys = json.loads(os.environ.pop(KEYS_VARIABLE, "[]"))
    if "models" in values:
        values["models"] = tuple(values["models"])
    return ProviderSettings(**values, keys=tuple(keys))


def _policy(path: str | None) -> AnswerPolicy | None:
    if path is None:
        return None
    module, _, name = path.partition(":")
    policy: AnswerPolicy = getattr(importlib.import_module(module), name)
    return policy


def _exit_with_stdin(server: uvicorn.Server) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    server.should_exit = True
    time.sleep(_HARD_EXIT_S)
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until it is told to end; returns the exit code."""
    arguments = _arguments(argv)
    try:
        settings = _settings(arguments)
    except InvalidInput as exc:
        print(exc, file=sys.stderr)  # noqa: T201 - a command talks to its user
        return 2

    # Only now: a wrong argument is answered without loading a web framework.
    from langflow_sluice.simulator.provider import Provider
    from langflow_sluice.simulator.server import announce, listen, make_server

    sock = listen(arguments.port)

    def say() -> None:
        print(json.dumps(announce(sock.getsockname()[1])), flush=True)  # noqa: T201 - the announcement

    server = make_server(Provider(settings, _policy(arguments.policy)), say)
    if arguments.exit_with_stdin:
        threading.Thread(target=_exit_with_stdin, args=(server,), daemon=True).start()
    asyncio.run(server.serve(sockets=[sock]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
