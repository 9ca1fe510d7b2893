"""An environment file: read as Langflow reads it, never executed; and the recommended one, written."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dotenv.parser import Binding

    from langflow_sluice.doctor.findings import Fix

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What stands in the file.

    Attributes:
        path: Where it is.
        values: The variables, with what other variables they name put in.
        lines: Variables and everything between them, as they were written.
        unreadable: Numbers of lines that say nothing that can be understood.
    """

    path: Path
    values: Mapping[str, str] = field(repr=False)
    lines: tuple[Binding, ...] = field(repr=False)
    unreadable: tuple[int, ...] = ()

    def line_of(self, variable: str) -> int:
        """The line that counts: the last one that sets the variable."""
        return max((_line(binding) for binding in self.lines if binding.key == variable), default=0)


def read_env_file(path: Path) -> EnvFile:
    """Reads the file with python-dotenv, which Langflow uses.

    Raises:
        InvalidInput: It cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text in UTF-8"
        raise InvalidInput.of("env_file", str(path), f"it cannot be read ({reason})", fix="Name a .env file.") from None
    return parsed(path, text)


def parsed(path: Path, text: str) -> EnvFile:
    """What a text would mean in the file."""
    from io import StringIO

    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    lines = tuple(parse_stream(StringIO(text)))
    unreadable = tuple(_line(binding) for binding in lines if binding.error)
    if unreadable:
        # Told as a finding; python-dotenv would warn of each line as well.
        text = "".join(binding.original.string for binding in lines if not binding.error)
    values = dotenv_values(stream=StringIO(text))
    return EnvFile(path, {name: value for name, value in values.items() if value is not None}, lines, unreadable)


def recommended(file: EnvFile | None, fixes: Sequence[Fix], in_force: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the recommended file: the user's own lines as they are, changed ones with the reason.

    Args:
        file: The user's own.
        fixes: What to change.
        in_force: Values of variables that hold JSON, for fixes that change one key of them.
    """
    changes = _changes(fixes, in_force)
    parts: list[str] = []
    examples = {fix.variable for fix in fixes if fix.example}
    last = {variable: file.line_of(variable) for variable in changes} if file else {}
    for binding in file.lines if file else ():
        text = binding.original.string
        variable = binding.key or ""
        if variable in changes and _line(binding) == last[variable]:
            leading = text[: _blank(text)]
            change = changes.pop(variable)
            # An example cannot stand in for the user's own line, only above it.
            text = leading + change + (text[len(leading) :] if variable in examples else "")
        parts.append(text if text.endswith("\n") else text + "\n")
    if changes:
        parts += ["\n" if parts else "", "# Recommended by sluice doctor:\n", *changes.values()]
    return "".join(parts)


def write_private(path: Path, text: str, *, force: bool) -> None:
    """Writes the file so that only its owner can read it: it holds the user's own secrets.

    Raises:
        InvalidInput: It is there already and ``force`` is off, or it cannot be written.
    """
    name = "write_env"
    try:
        if not force:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            return
        # In one step, and never into a file that others may read already; mkstemp makes private ones.
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise InvalidInput.of(name, str(path), "it is there already", fix="Name another, or add --force.") from None
    except OSError as exc:
        problem = f"it cannot be written ({exc.strerror})"
        raise InvalidInput.of(name, str(path), problem, fix="Name a file in a folder that you may write to.") from None


def _line(binding: Binding) -> int:
    return binding.original.line + binding.original.string[: _blank(binding.original.string)].count("\n")


def _blank(text: str) -> int:
    """Length of the blank lines at the start, which python-dotenv counts to what follows them."""
    return text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1


def _changes(fixes: Sequence[Fix], in_force: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The new lines by variable, each under the comments that say why."""
    reasons: dict[str, list[str]] = {}
    values: dict[str, str] = {}
    objects: dict[str, dict[str, Any]] = {}
    for fix in fixes:
        known = reasons.setdefault(fix.variable, [])
        if fix.why not in known:
            known.append(fix.why)
        if fix.key:
            merged = objects.setdefault(fix.variable, dict(in_force.get(fix.variable, {})))
            merged[fix.key] = fix.value
            # In single quotes: python-dotenv takes what stands there as it is.
            values[fix.variable] = f"{fix.variable}='{json.dumps(merged)}'"
        else:
            values[fix.variable] = f"{'# ' if fix.example else ''}{fix.variable}={fix.value}"
    return {
        variable: "".join(f"# {reason}\n" for reason in reasons[variable]) + line + "\n"
        for variable, line in values.items()
    }
