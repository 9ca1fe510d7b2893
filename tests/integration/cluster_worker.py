"""A process of a cluster, started by ``cluster_processes``: callers at a guard, told over standard input what to do.

Each line read is a JSON object with ``do`` and its arguments; each is answered by a line of JSON. What callers do is
written to the journal, a file that all processes append to.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import Rejected
from langflow_sluice.guard import Guard, GuardSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Kind, process, caller's number, time on the clock that all processes of a machine share.
RECORD = struct.Struct("<ccHId")
BEGINS, ENDS, REFUSED, KILLED = b"+", b"-", b"!", b"x"


def write(journal: int, kind: bytes, process: int, number: int) -> None:
    # The kernel orders appends of all processes, and a process that is killed cannot hold up the others.
    os.write(journal, RECORD.pack(kind, b" ", process, number, time.monotonic()))


class Worker:
    def __init__(self, number: int) -> None:
        self.number = number
        self.journal = -1
        self.guard: Guard
        self.callers: list[asyncio.Task[None]] = []
        self.going = True
        self.refusals: dict[str, int] = {}
        self.calls = 0
        self.open = asyncio.Event()

    def use(self, name: str, settings: dict[str, Any], journal: str) -> None:
        if self.journal >= 0:
            self.guard.retire()
            os.close(self.journal)
        self.journal = os.open(journal, os.O_WRONLY | os.O_APPEND)
        self.refusals.clear()
        self.guard = Guard(name, GuardSettings(**settings))

    async def calling(self, hold_s: float, jitter: float) -> None:
        while self.going:
            try:
                async with self.guard.slot():
                    self.calls += 1
                    number = self.calls
                    write(self.journal, BEGINS, self.number, number)
                    try:
                        if hold_s < 0:
                            await self.open.wait()
                        else:
                            await asyncio.sleep(hold_s * random.uniform(1 - jitter, 1 + jitter))  # noqa: S311
                    finally:
                        write(self.journal, ENDS, self.number, number)
            except Rejected as refusal:  # noqa: PERF203 - callers go on
                self.refusals[refusal.code] = self.refusals.get(refusal.code, 0) + 1
                write(self.journal, REFUSED, self.number, 0)
                await asyncio.sleep(0.02)

    async def do(self, do: str, **values: Any) -> Any:
        if do == "use":
            self.use(**values)
        elif do == "call":  # hold_s below 0: until told "let go"
            values = {"hold_s": 0.005, "jitter": 0.0, **values}
            count = values.pop("callers")
            self.callers += [asyncio.ensure_future(self.calling(**values)) for _ in range(count)]
        elif do == "stop":
            self.going = False
            self.open.set()
            await asyncio.gather(*self.callers)
            self.callers.clear()
            self.going = True
            self.open.clear()
        elif do == "let go":
            self.open.set()
        elif do == "change":
            self.guard.change(GuardSettings(**values))
        elif do == "fork":
            return await asyncio.get_running_loop().run_in_executor(None, self.fork)
        elif do != "tell":
            raise ValueError(do)
        statistics = self.guard.statistics()
        cluster, share = statistics.cluster, self.guard.admission.share
        return {
            "waiting": sum(statistics.waiting.values()),
            "admitted": statistics.admitted,
            "peak": statistics.peak_in_flight,
            "refusals": self.refusals,
            "process": share.link.process if share else "",
            "exchanges": share.link.exchanges if share else 0,
            **({name: getattr(cluster, name) for name in cluster.__slots__} if cluster else {"mode": "process"}),
            "cluster_in_flight": cluster.in_flight if cluster else 0,
            "in_flight_here": statistics.in_flight,
            "reason": share.reason if share else "",
        }

    def fork(self) -> dict[str, Any]:
        """What a forked child finds when it uses a guard of the same name; told through a pipe."""
        read, written = os.pipe()
        child = os.fork()
        if not child:
            try:
                guard = Guard(self.guard.name, self.guard.settings)
                with guard.slot():
                    share = guard.admission.share
                    told = {"process": share.link.process, "members": share.statistics().members}
                os.write(written, json.dumps(told).encode())
            finally:
                os._exit(0)
        os.close(written)
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        return json.loads(told or b"{}")


def answer(told: str) -> None:
    sys.stdout.write(told + "\n")
    sys.stdout.flush()


async def orders() -> AsyncIterator[dict[str, Any]]:
    """Those of standard input, read by a thread that no end of the process waits for."""
    loop, lines = asyncio.get_running_loop(), asyncio.Queue[bytes]()

    def read() -> None:
        with open(0, "rb", buffering=0, closefd=False) as given:
            while line := given.readline():
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        yield json.loads(line)


async def main() -> None:
    given = json.loads(sys.argv[1])
    if given.pop("exit_on_sigterm", False):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    worker = Worker(**given)
    answer(json.dumps({"pid": os.getpid()}))
    async for order in orders():
        answer(json.dumps(await worker.do(**order)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    asyncio.run(main())
