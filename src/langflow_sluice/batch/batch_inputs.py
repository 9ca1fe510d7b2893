"""The guard's inputs as a batch has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langflow_sluice.nodes.guard_inputs import NAMED_BY_CREDENTIAL, guard_inputs

if TYPE_CHECKING:
    from lfx.inputs.inputs import InputTypes

# The number of workers is what a batch is about; and nobody sits in front of it, so it lets others go first.
_OF_A_BATCH: dict[str, dict[str, Any]] = {
    "max_concurrency": {
        "advanced": False,
        "info": "Rows in work at once. Of a model that is not guarded yet also the calls in flight, over all flows of "
        "this server. 0: no limit.",
    },
    "priority": {"value": "batch"},
}


def batch_guard_inputs() -> list[InputTypes]:
    """What ``guard_inputs`` makes, for a batch; a model that comes guarded keeps the guard of its own node instead."""
    # Rows wait for each other's turn: with few requests a minute allowed, far longer than a person would.
    inputs = guard_inputs(blank_name=NAMED_BY_CREDENTIAL, queue_timeout=600, model=True)
    for each in inputs:
        for name, value in _OF_A_BATCH.get(str(each.name), {}).items():
            setattr(each, name, value)
    return inputs
