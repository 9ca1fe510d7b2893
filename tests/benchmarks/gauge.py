"""What it costs to read the gauge: the figures of this process, of all workers, and of a PostgreSQL.

Run it: ``uv run python tests/benchmarks/gauge.py``. Figures are printed; nothing is asserted.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from langflow_sluice.embedded.postgres import EmbeddedPostgres
from langflow_sluice.gauge.bars import bars_of
from langflow_sluice.gauge.database import look_at_database
from langflow_sluice.gauge.picture import draw
from langflow_sluice.gauge.reading import Reading
from langflow_sluice.gauge.report import written
from langflow_sluice.gauge.rows import snapshot_rows
from langflow_sluice.gauge.workers import all_processes
from langflow_sluice.guard import Guard, GuardSettings, guard_registry
from langflow_sluice.guard.admission import RECENT
from langflow_sluice.metrics.figures import figures
from langflow_sluice.metrics.state_folder import FOLDER_VARIABLE, StateFolder
from langflow_sluice.postgres.url import read_database_url

if TYPE_CHECKING:
    from collections.abc import Callable

GUARDS = 20
ROUNDS = 200


def filled(number: int) -> Guard:
    """A guard that has been used for long: all its windows are full."""
    guard = guard_registry().guard(f"guard {number}", GuardSettings(), asked_by="benchmark")
    generator = random.Random(number)  # noqa: S311 - no secret
    for _ in range(RECENT):
        for times, histogram in (
            (guard.admission.waits_s, guard.admission.wait_times),
            (guard.admission.services_s, guard.admission.service_times),
        ):
            seconds = generator.expovariate(1.0)
            times.append(seconds)
            histogram.add(seconds)
    return guard


def measure(name: str, work: Callable[[], object], rounds: int = ROUNDS) -> None:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append((time.perf_counter() - started) * 1e3)
    times.sort()
    print(f"{name:<58}{times[len(times) // 2]:>9.3f}{times[-1]:>10.3f}")


def of_postgres() -> None:
    with EmbeddedPostgres() as server:
        url = read_database_url(server.url)

        async def looks() -> list[float]:
            times = []
            for _ in range(50):
                started = time.perf_counter()
                await look_at_database(url, long_running_s=10.0)
                times.append((time.perf_counter() - started) * 1e3)
            return sorted(times)

        times = asyncio.run(looks())
        print(f"{'PostgreSQL, over a pooled connection':<58}{times[25]:>9.3f}{times[-1]:>10.3f}")


def of_workers(folder: Path) -> None:
    guards = [filled(number) for number in range(GUARDS)]
    print(f"{f'{GUARDS} guards, all windows full':<58}{'median ms':>9}{'highest':>10}")
    measure("one guard", guards[0].statistics)
    measure("this process", figures)
    told = figures()
    for number in range(3):
        StateFolder(folder).write(type(told).from_dict({**told.to_dict(), "worker": f"other:{number}"}))
    measure("this process and three other workers", all_processes)
    reading = Reading(tuple(all_processes()[0]))
    measure("all of them as a table", lambda: snapshot_rows(reading.processes))
    measure("the written report", lambda: written(reading))
    draw(bars_of(reading), {}, 0)  # loads matplotlib
    measure("the picture", lambda: draw(bars_of(reading), {}, 0), rounds=10)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        of_workers(Path(folder))
    of_postgres()


if __name__ == "__main__":
    main()
