"""A command that cannot outlive whoever started it, with everything it started itself.

The command runs under a small supervisor process, this very file, which holds one end of a pipe: when the other end
closes (the owner leaves its ``with`` block, crashes or is killed, by whatever signal), the supervisor ends the
command's whole process group, first kindly, and removes the folder it was told to remove. Watching a pipe works on
every POSIX system; a parent-death signal would be Linux only, and tied to the thread that made the child.

On Linux the supervisor is also a subreaper: processes that left the group as daemons become its children when their
parents die, and end with it too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ANNOUNCE_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0
_POLL_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36
_CANNOT_EXECUTE = 127


class SupervisedProcess:
    """A command in a session of its own that ends when this object is closed or this process dies.

    Ctrl-C in a terminal does not reach the command: its owner ends it in order. A process forked (not executed) from
    the owner inherits its end of the pipe, and the command then lives as long as that process.

    Args:
        command: Program and arguments.
        env: The whole environment of the command.
        cwd: Its working directory.
        log_path: File that takes its standard output and error.
        grace_s: Seconds between the kind request to end (SIGTERM) and the kill.
        remove: A folder to remove, with all its content, after ``close`` or the death of this process; it stays when
            the command ends by itself, so that its log can still be read.

    Attributes:
        pid: Process id of the command, which is also the id of its process group and session.

    Raises:
        RuntimeError: If the command cannot be started; standard error of this process says why.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log_path: Path,
        grace_s: float = 10.0,
        remove: Path | None = None,
    ) -> None:
        self._grace_s = grace_s
        # -I: the folder of this file must not become importable, it has a langflow.py.
        supervisor = [sys.executable, "-I", __file__, "--grace-s", str(grace_s), "--log", str(log_path)]
        if remove is not None:
            supervisor += ["--remove", str(remove)]
        self._supervisor = subprocess.Popen(  # noqa: S603 - the caller's own command
            [*supervisor, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        self.pid = 0
        self._exit_code: int | None = None
        try:
            self.pid = self._announced_pid()
        except BaseException:
            self.close()
            raise

    def _announced_pid(self) -> int:
        lines: list[bytes] = []

        def read() -> None:
            if self._supervisor.stdout is not None:
                lines.append(self._supervisor.stdout.readline())

        # A thread reads the line: a timeout on a pipe needs one.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(_ANNOUNCE_TIMEOUT_S)
        if not lines or not lines[0]:
            msg = "The command could not be started."
            raise RuntimeError(msg)
        pid = int(json.loads(lines[0])["pid"])
        if self._supervisor.stdout is not None:
            os.set_blocking(self._supervisor.stdout.fileno(), False)
        return pid

    def poll(self) -> int | None:
        """Returns the command's exit code once it has ended, a signal's number if one ended it, else ``None``."""
        output = self._supervisor.stdout
        if self._exit_code is None and output is not None and not output.closed:
            line = output.readline()
            if line:
                self._exit_code = int(json.loads(line)["exit_code"])
            elif self._supervisor.poll() is not None:
                self._exit_code = abs(self._supervisor.returncode)
        return self._exit_code

    def close(self) -> None:
        """Ends the command and all its processes; returns when they are gone. Does nothing the second time."""
        supervisor = self._supervisor
        try:
            if supervisor.stdin is not None:
                with contextlib.suppress(OSError):
                    supervisor.stdin.close()
            supervisor.wait(self._grace_s + 2 * _KILL_TIMEOUT_S)
        except BaseException as exc:
            # Too slow, or a second Ctrl-C: no more patience, but nothing may stay behind.
            supervisor.kill()
            supervisor.wait()
            self._kill_group()
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
        finally:
            if supervisor.stdout is not None:
                supervisor.stdout.close()
        if supervisor.returncode < 0:
            # Something killed the supervisor itself, so nobody has ended the command.
            self._kill_group()

    def _kill_group(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class _Supervisor:
    """Runs in the supervisor process: starts the command, waits for a reason to end, ends everything."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._group = 0
        self._exit_code: int | None = None
        self._told_to_end = False
        # A signal writes to this pair, so that one select waits for signals and for the owner alike.
        self._wake, wake_writer = socket.socketpair()
        wake_writer.settimeout(0)
        self._wake.settimeout(0)
        self._wake_writer = wake_writer
        signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)

    def _end(self, *_: object) -> None:
        self._told_to_end = True

    def run(self, command: Sequence[str], log_path: Path) -> int:
        with log_path.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - the owner's own command
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._group = child.pid
        # All children are reaped here, daemons included: subprocess must not wait for this one as well.
        child.returncode = 0
        print(json.dumps({"pid": child.pid}), flush=True)  # noqa: T201 - the announcement
        owner_alive = True
        announced = False
        while owner_alive and not self._told_to_end:
            readable, _, _ = select.select([sys.stdin, self._wake], [], [])
            if sys.stdin in readable:
                owner_alive = bool(os.read(sys.stdin.fileno(), 1024))
            self._drain_and_reap()
            if self._exit_code is not None and not announced:
                announced = True
                self._end_all()
                print(json.dumps({"exit_code": self._exit_code}), flush=True)  # noqa: T201 - the owner reads it
        self._end_all()
        return self._exit_code or 0

    def _drain_and_reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(1024):
                pass
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._group:
                    self._exit_code = abs(os.waitstatus_to_exitcode(status))

    def _end_all(self) -> None:
        self._signal_group(signal.SIGTERM)
        if not self._gone_within(self._grace_s):
            self._signal_group(signal.SIGKILL)
            self._gone_within(_KILL_TIMEOUT_S)
        for pid in self._daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self._group, number)
        except ProcessLookupError:
            return False
        return True

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._signal_group(0):
            if time.monotonic() > deadline:
                return False
            select.select([self._wake], [], [], _POLL_S)
            self._drain_and_reap()
        return True

    @staticmethod
    def _daemons() -> list[int]:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def _become_subreaper() -> None:
    if sys.platform != "linux":
        return
    import ctypes

    # Where it fails, daemons go to init instead; the group still ends.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main() -> int:
    """Runs the supervisor; returns the command's exit code, or 0 when it was ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace-s", type=float, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--remove", type=Path)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    _become_subreaper()
    try:
        return _Supervisor(arguments.grace_s).run(arguments.command, arguments.log)
    except FileNotFoundError as exc:
        print(exc, file=sys.stderr)  # noqa: T201 - the owner's standard error
        return _CANNOT_EXECUTE
    finally:
        if arguments.remove is not None:
            shutil.rmtree(arguments.remove, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
