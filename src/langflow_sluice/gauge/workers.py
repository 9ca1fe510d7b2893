"""What all processes of this deployment tell."""

from __future__ import annotations

from langflow_sluice.errors import SluiceError
from langflow_sluice.metrics.figures import ProcessFigures, figures
from langflow_sluice.metrics.state_folder import state_folder


def all_processes() -> tuple[list[ProcessFigures], str]:
    """This process as it is now, the others as they told last (a second ago while something happens), and a note.

    Takes no lock that a caller of a guard could wait for. Reads files: call it from a thread where a loop must not
    wait for a disk.

    Returns:
        The figures of each process, this one's first, and why the others' cannot be read, or an empty text.
    """
    mine = figures()
    try:
        told = state_folder().read()
    except SluiceError as error:
        return [mine], f"The figures of other workers cannot be read: {error}"
    # What this process has left there for the others is older than what it is now.
    return [mine, *(process for process in told if process.worker != mine.worker)], ""
