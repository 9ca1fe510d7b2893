"""Leaves this process's figures in the deployment's folder, once a second while they change."""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import threading

from langflow_sluice.errors import SluiceError
from langflow_sluice.metrics.endpoint import Endpoint
from langflow_sluice.metrics.figures import ProcessFigures, figures, worker_name
from langflow_sluice.metrics.loop_lag import loop_lags
from langflow_sluice.metrics.state_folder import HEARTBEAT_S, StateFolder, state_folder

EVERY_S = 1.0

_log = logging.getLogger("langflow_sluice.metrics")


class Publisher:
    """One daemon thread for each process, from the first use of a guard by a node; any thread may start it.

    It has a thread of its own, since writing to a disk may take long, and what wakes a guard's callers must not wait.
    """

    def __init__(self) -> None:
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._folder: StateFolder | None = None
        self._last: ProcessFigures | None = None
        self._endpoint = Endpoint()

    def start(self) -> None:
        """Starts telling, if that has not been done; and looks at the calling thread's event loop from now on."""
        loop_lags.watch_running_loop()
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sluice-metrics", daemon=True)
                self._thread.start()

    def publish(self) -> None:
        """Tells now, if anything has changed or the last time is long ago.

        Raises:
            OSError: The folder cannot be written to.
            InvalidInput: The folder's variable names no folder.
        """
        told = figures()
        last = self._last
        if last is not None and told.told_at - last.told_at < HEARTBEAT_S:
            unchanged = dataclasses.replace(told, told_at=last.told_at, loop_lag_s=last.loop_lag_s) == last
            if unchanged:
                return
        folder = self._folder = self._folder or state_folder()
        folder.write(told)
        self._last = told

    def stop(self) -> None:
        """Takes back what was told, at the end of the process."""
        self._ended.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(EVERY_S)
        if self._folder is not None:
            self._folder.withdraw(worker_name())

    def _run(self) -> None:
        said = False
        while not self._ended.wait(EVERY_S):
            loop_lags.look()
            try:
                self.publish()
                self._endpoint.tend()
                said = False
            except (OSError, SluiceError) as error:
                if not said:
                    _log.warning("The figures of this process cannot be told: %s", error)
                said = True


publisher = Publisher()
atexit.register(publisher.stop)
