"""Processes that share a guard, and a count of their calls that asks neither the guard nor Redis."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cluster_worker import BEGINS, ENDS, KILLED, RECORD, REFUSED, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Self

ANSWER_TIMEOUT_S = 30.0
_PROGRAM = Path(__file__).with_name("cluster_worker.py")


class Journal:
    """What all callers have done, in the order in which they did it.

    A call is written down after its slot was entered and crossed out before it is left, in one file that every process
    appends to: what is in flight by the journal has a slot for certain.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        os.close(self._file)

    def killed(self, process: int) -> None:
        """The calls of that process have ended."""
        write(self._file, KILLED, process, 0)

    @property
    def position(self) -> int:
        """How many records there are, to read on from."""
        return self.path.stat().st_size // RECORD.size

    def read(self) -> Replay:
        return Replay(self.path.read_bytes())


class Replay:
    """The journal's records, counted.

    Attributes:
        peak: The most calls in flight at once.
        calls: Those begun, by process.
        refusals: Likewise.
        in_flight: At the end, by process.
        total: In flight at the end.
        records: Kind, process, number of the call, time.
        steps: After each record: time, calls in flight.
    """

    def __init__(self, data: bytes) -> None:
        self.calls: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.steps: list[tuple[float, int]] = []
        self.records: list[tuple[bytes, int, int, float]] = []
        mine: defaultdict[int, set[int]] = defaultdict(set)
        total = 0
        for kind, _, process, number, at in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
            self.records.append((kind, process, number, at))
            if kind == BEGINS:
                self.calls[process] += 1
                mine[process].add(number)
                total += 1
            elif kind == ENDS and number in mine[process]:
                mine[process].remove(number)
                total -= 1
            elif kind == KILLED:
                total -= len(mine.pop(process, set()))
            elif kind == REFUSED:
                self.refusals[process] += 1
            self.steps.append((at, total))
        self.in_flight = {process: len(numbers) for process, numbers in mine.items() if numbers}
        self.total = total

    @property
    def peak(self) -> int:
        return max((total for _, total in self.steps), default=0)

    def peak_from(self, position: int) -> int:
        """The most calls in flight at once from that record on."""
        return max((total for _, total in self.steps[position:]), default=0)

    def peak_of(self, process: int, position: int) -> int:
        """Likewise of one process."""
        going = most = 0
        for at, (kind, whose, *_) in enumerate(self.records):
            if whose == process and kind in {BEGINS, ENDS}:
                going += 1 if kind == BEGINS else -1
            if at >= position:
                most = max(most, going)
        return most

    def busy(self) -> float:
        """Calls in flight in the mean over time, between the first tenth and the last of the journal."""
        steps = self.steps[len(self.steps) // 10 : -len(self.steps) // 10]
        area = sum((b[0] - a[0]) * a[1] for a, b in zip(steps, steps[1:], strict=False) if b[0] > a[0])
        return area / (steps[-1][0] - steps[0][0])


class WorkerProcess:
    """One of them.

    Args:
        number: In the journal.
        folder: For its log.
        url: Of Redis.
        lease_s: Of the cluster.
        options: Further ones of ``cluster_worker``.
    """

    def __init__(self, number: int, folder: Path, url: str, lease_s: float, **options: Any) -> None:
        self.number = number
        self.journal: Journal
        given = {"number": number, **options}
        environment = {**os.environ, "SLUICE_REDIS_URL": url, "SLUICE_LEASE": f"{lease_s:g}"}
        self.log_path = folder / f"worker-{number}-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,  # an answer in a buffer of ours is not seen by select
                env=environment,
            )
        self._greeted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def use(self, journal: Journal, name: str, settings: Mapping[str, Any]) -> None:
        """Has it share a guard of that name, and leave the one before."""
        self.journal = journal
        self.ask("use", name=name, settings=settings, journal=str(journal.path))

    def do(self, do: str, **values: Any) -> dict[str, Any]:
        """Has it do something, and returns what it tells afterwards."""
        self.ask(do, **values)
        return self.answer()

    def ask(self, do: str, **values: Any) -> None:
        """As ``do``, without waiting for the answer."""
        self._process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        if not self._greeted:
            self._greeted = True
            self.answer()
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        assert ready, f"worker {self.number} does not answer: {self.log[-2000:]}"
        line = self._process.stdout.readline()
        assert line, f"worker {self.number} has ended: {self.log[-2000:]}"
        return json.loads(line)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a word, as ``kill -9``."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            with contextlib.suppress(AttributeError, OSError):  # used nothing, or nobody counts any more
                self.journal.killed(self.number)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def leave(self) -> int:
        """Lets it end by itself, as at the end of its input; its exit code."""
        self._process.stdin.close()
        return self.wait()

    def wait(self) -> int:
        code = self._process.wait(20)
        self.journal.killed(self.number)
        return code


@contextlib.contextmanager
def processes(
    count: int, folder: Path, url: str, lease_s: float, *, first: int = 0, **options: Any
) -> Iterator[Processes]:
    """Several of them, numbered from ``first``; killed at the end."""
    with contextlib.ExitStack() as stack:
        yield Processes(
            [
                stack.enter_context(WorkerProcess(first + each, folder, url, lease_s, **options))
                for each in range(count)
            ],
            folder,
        )


class Processes(list[WorkerProcess]):
    """Several of them, and what is done by all."""

    def __init__(self, workers: list[WorkerProcess], folder: Path) -> None:
        super().__init__(workers)
        self._folder = folder

    @contextlib.contextmanager
    def sharing(self, name: str, **settings: Any) -> Iterator[Journal]:
        """All use a guard of that name until the block ends; then their calls do."""
        journal = Journal(self._folder / f"{name.replace(' ', '-')[:40]}-{time.monotonic_ns()}.journal")
        for worker in self:
            worker.use(journal, name, settings)
        for worker in self:
            worker.answer()
        try:
            yield journal
        finally:
            for worker in self:
                if worker.lives:
                    worker.signal(signal.SIGCONT)
                    worker.ask("stop")
            for worker in self:
                if worker.lives:
                    worker.answer()
            journal.close()

    def do(self, do: str, **values: Any) -> list[dict[str, Any]]:
        """Has all do the same at once."""
        for worker in self:
            worker.ask(do, **values)
        return [worker.answer() for worker in self]

    def tell(self, what: str) -> list[Any]:
        """One of the figures of each."""
        return [each[what] for each in self.do("tell")]

    def until(self, what: str, value: Any) -> None:
        """Waits until that figure is the same for all."""
        until(lambda: set(self.tell(what)) == {value}, f"{what} {value}")

    def until_exchanged(self) -> None:
        """Waits until each has asked Redis and was answered."""
        before = self.tell("exchanges")
        until(lambda: all(now > then for now, then in zip(self.tell("exchanges"), before, strict=True)), "an exchange")

    def until_calls(self, journal: Journal, more: int) -> None:
        """Waits until each has begun so many calls from now on."""
        before = journal.read().calls
        until(
            lambda: all(journal.read().calls[each.number] >= before[each.number] + more for each in self),
            f"{more} more calls of each",
        )


def until(condition: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    """Looks until it is so; a test that would wait for ever fails."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)
