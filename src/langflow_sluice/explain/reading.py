"""Reads logs of any size and with lines of any length in bounded memory."""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes at the beginning and at the end of a line that are looked at: a traceback in a line of JSON ends with its error.
HEAD = 16_384
TAIL = 16_384
# Pretty logs are coloured in the middle of words.
_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,20}[A-Za-z]")
_CUT = b" ... "
_BLOCK = 65_536


def blocks(stream: IO[bytes]) -> Iterator[list[str]]:
    """The lines of a stream in lists of some 64 kB, without their ends and colours; long ones are cut in the middle.

    Args:
        stream: Opened for reading bytes; what is no UTF-8 is replaced.
    """
    lines: list[str] = []
    size = 0
    while True:
        line = _line(stream)
        if line is None:
            break
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        lines.append(_COLOUR.sub("", text) if "\x1b" in text else text)
        size += len(line)
        if size >= _BLOCK:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _line(stream: IO[bytes]) -> bytes | None:
    head = stream.readline(HEAD)
    if not head:
        return None
    if head.endswith(b"\n") or len(head) < HEAD:
        return head
    tail, is_cut = b"", False
    while True:
        more = stream.readline(TAIL)
        is_cut = is_cut or len(tail) + len(more) > TAIL
        tail = (tail + more)[-TAIL:]
        if len(more) < TAIL or more.endswith(b"\n"):
            return head + _CUT + tail if is_cut else head + tail
