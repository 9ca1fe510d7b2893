"""How the gauge writes names and amounts."""

from __future__ import annotations

_LONG_NAME = 60


def name(text: str) -> str:
    """A name that users chose, for Markdown, also within a table."""
    shown = " ".join(text.replace("`", "'").replace("|", "/").split())
    return f"`{shown if len(shown) <= _LONG_NAME else shown[: _LONG_NAME - 1] + '…'}`" if shown else "(no name)"


def amount(count: int, one: str, many: str = "") -> str:
    """``1 call``, ``2 calls``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def verb(count: int, one: str, many: str) -> str:
    """``waits`` for one, ``wait`` for several."""
    return one if count == 1 else many


def duration(seconds: float) -> str:
    """``250 ms``, ``4 s``, ``12 min``, ``3 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 100:  # noqa: PLR2004 - above, minutes read better
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"  # noqa: PLR2004 - as above
