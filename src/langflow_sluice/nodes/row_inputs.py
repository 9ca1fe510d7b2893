"""The inputs of nodes that work through many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from lfx.io import DropdownInput, IntInput

if TYPE_CHECKING:
    from lfx.inputs.inputs import InputTypes


def row_inputs(*, not_repeated: str) -> list[InputTypes]:
    """What to do with a row that fails.

    Args:
        not_repeated: What a further attempt leaves alone, as the end of a sentence.
    """
    inputs = [
        DropdownInput(
            name="on_error",
            display_name="On Error",
            options=["collect", "stop"],
            value="collect",
            info="Collect keeps the other rows and lists the failed ones; stop ends with the first error.",
        ),
        IntInput(
            name="item_retries",
            display_name="Item Retries",
            value=0,
            advanced=True,
            info=f"Further attempts for a failed row; {not_repeated}.",
        ),
    ]
    return cast("list[InputTypes]", inputs)
