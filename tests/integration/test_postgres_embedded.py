from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from langflow_sluice.embedded.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable

_HOLDING = """
import select, sys
from langflow_sluice.embedded.postgres import EmbeddedPostgres
with EmbeddedPostgres() as server:
    print(server._folder, (server._folder / "data" / "postmaster.pid").read_text().split()[0], flush=True)
    if sys.argv[1] == "raise":
        1 / 0
    # In turns: a signal that comes just before a read blocks is not seen until it ends.
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        pass
"""


def heed_interrupts() -> None:
    """Between fork and exec: a shell that starts the tests in the background lets all of them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def within_ten_seconds(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGKILL", "raise"])
def test_the_server_and_its_folder_go_however_the_process_ends(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - sets one signal, no more
    ) as holder:
        assert holder.stdout is not None
        folder, pid = holder.stdout.readline().split()
        if end != "raise":
            holder.send_signal(getattr(signal, end))
        holder.wait(60)
        assert within_ten_seconds(lambda: not alive(int(pid)))
        assert within_ten_seconds(lambda: not Path(folder).exists())


def test_only_its_password_opens_it_and_its_folder_is_gone_afterwards() -> None:
    with EmbeddedPostgres() as server:
        folder = server._folder
        assert folder is not None
        assert folder.exists()
        password = server.url.split(":")[2].split("@")[0]
        assert password not in repr(server)
        with psycopg.connect(server.url) as connection:
            version, vector = connection.execute(
                "SELECT current_setting('server_version_num')::int,"
                " (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
            ).fetchone() or (0, "")
        assert version >= 180_000
        assert vector
        for wrong in (server.url.replace(password, "wrong"), server.url.replace(f":{password}", "")):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(wrong)
    assert not folder.exists()
    server.close()


def test_data_survives_a_restart(postgres_server: EmbeddedPostgres) -> None:
    with EmbeddedPostgres(max_connections=20) as server:
        port = server.port
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("20",)
            connection.execute("CREATE TABLE kept AS SELECT 1 AS x")
        server.restart()
        assert server.port == port != postgres_server.port
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SELECT x FROM kept").fetchone() == (1,)
        server.stop("immediate")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url)
        server.start()
        psycopg.connect(server.url).close()


def test_the_watch_sees_the_peak_by_application_and_database(postgres_server: EmbeddedPostgres) -> None:
    url = postgres_server.create_database()
    database = url.rsplit("/", 1)[1]
    before = postgres_server.connections()
    with postgres_server.watch(interval_s=0.001) as watch:
        for count in (3, 1):
            held = [psycopg.connect(url, application_name=f"app-{database}") for _ in range(count)]
            seen = watch.samples
            assert within_ten_seconds(lambda seen=seen: watch.samples > seen + 1)  # type: ignore[misc]
            assert postgres_server.connections(f"app-{database}") == count
            for connection in held:
                connection.close()
            # A server process that is on its way out still counts.
            assert within_ten_seconds(lambda: postgres_server.connections(f"app-{database}") == 0)
    assert watch.peak(f"app-{database}") == watch.peak(database=database) == 3
    assert watch.peaks_by_application()[f"app-{database}"] == 3
    assert watch.peaks_by_database()[database] == 3
    assert watch.peak() >= 3
    assert "sluice-watch" not in watch.peaks_by_application()
    assert postgres_server.connections() <= before + 1
    postgres_server.drop_database(database)


def test_the_watch_goes_on_after_a_restart() -> None:
    with EmbeddedPostgres() as server, server.watch(interval_s=0.001) as watch:
        server.restart("immediate")
        seen = watch.samples
        assert within_ten_seconds(lambda: watch.samples > seen)
