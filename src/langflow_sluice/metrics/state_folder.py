"""Where the processes of a deployment leave their figures for each other: a private folder of each machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
import time
from pathlib import Path

from langflow_sluice.cluster.redis_settings import redis_settings
from langflow_sluice.errors import InvalidInput
from langflow_sluice.metrics.figures import ProcessFigures

FOLDER_VARIABLE = "SLUICE_STATE_DIR"
# Processes that use the same Langflow database are one deployment.
_DEPLOYMENT_VARIABLES = ("LANGFLOW_DATABASE_URL", "LANGFLOW_CONFIG_DIR")
# A process tells at least this often; one that has not for longer is gone, or stopped.
HEARTBEAT_S = 10.0
GONE_AFTER_S = 3 * HEARTBEAT_S
# What a process that was killed has left behind is cleared away by those that come after.
_CLEAR_AFTER_S = 3600.0


class StateFolder:
    """A folder with one file for each process; any process, any thread.

    Args:
        path: Where; made on first use, for its owner only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, told: ProcessFigures) -> None:
        """Replaces what this process has told before; readers see the one or the other, never half of it.

        Raises:
            OSError: The folder cannot be written to, or belongs to somebody else.
        """
        self._prepare()
        place = self._file_of(told.worker)
        draft = place.with_suffix(".new")
        draft.write_text(json.dumps(told.to_dict(), separators=(",", ":")), encoding="utf-8")
        draft.replace(place)

    def withdraw(self, worker: str) -> None:
        """Removes what a process has told, because it ends."""
        with contextlib.suppress(OSError):
            self._file_of(worker).unlink(missing_ok=True)

    def read(self) -> list[ProcessFigures]:
        """What all processes have told that are not known to be gone, in the order of their names."""
        return [told for told in self._told_lately() if not has_died(told.worker)]

    def _told_lately(self) -> list[ProcessFigures]:
        found = []
        now = time.time()
        try:
            files = sorted(self.path.glob("*.json"))
        except OSError:
            return []
        for file in files:
            try:
                told = ProcessFigures.from_dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, AttributeError):  # just removed, or another version's
                continue
            if now - told.told_at < GONE_AFTER_S:
                found.append(told)
            elif now - told.told_at > _CLEAR_AFTER_S:
                self.withdraw(told.worker)
        return found

    def _file_of(self, worker: str) -> Path:
        return self.path / f"{worker.replace(':', '-').replace('/', '-')}.json"

    def _prepare(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In a folder that everybody may write to, somebody else may have made it first.
        if hasattr(os, "getuid") and self.path.stat().st_uid != os.getuid():
            msg = f"{self.path} belongs to another user"
            raise PermissionError(msg)


def has_died(worker: str) -> bool:
    """Whether it was a process of this machine and is none any more: killed, it could not take back what it told."""
    host, _, pid = worker.rpartition(":")
    # On Windows the signal 0 is one that is sent.
    if os.name != "posix" or host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is another user's
        return False
    return False


def state_folder() -> StateFolder:
    """The folder of this deployment.

    ``SLUICE_STATE_DIR`` names it; else it lies in the folder for temporary files, apart for each user of the machine
    and each Langflow database.

    Where a Redis is configured, what it returns also reaches the other machines: see ``SharedFigures``.

    Raises:
        InvalidInput: The variable names something that is no folder, or those of Redis are wrong.
    """
    settings = redis_settings()
    if settings is None:
        return StateFolder(_path())
    from langflow_sluice.metrics.shared_figures import SharedFigures

    return SharedFigures(_path(), settings)


def _path() -> Path:
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    if named:
        path = Path(named)
        if path.exists() and not path.is_dir():
            raise InvalidInput.of(FOLDER_VARIABLE, named, "it is no folder", fix="Name a folder, or a new one.")
        return path
    identity = repr([os.environ.get(name, "") for name in _DEPLOYMENT_VARIABLES])
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"sluice-{owner}" / digest
