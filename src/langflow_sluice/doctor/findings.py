"""What the doctor says: findings, what to set instead, and the sums behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Fix:
    """One setting to change.

    Attributes:
        variable: The environment variable.
        value: What to set it to: a text, or the value of ``key`` where the variable holds JSON.
        why: The comment beside it in the recommended file.
        key: The key to change inside a variable that holds a JSON object; empty for the whole variable.
        example: Whether the value is only the form of it, which its user has to fill in.
    """

    variable: str
    value: Any
    why: str
    key: str = ""
    example: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor has seen; never holds a credential.

    Attributes:
        code: Stable name of the kind of finding, in snake case; ``..._not_checked`` where nothing could be seen.
        severity: ``error`` is going to fail or fails already, ``warning`` fails under load, ``info`` is good to know.
        observed: What was seen, with the values.
        advice: What to do.
        fixes: Settings to change, as far as settings of Langflow or Sluice are the cure.
    """

    code: str
    severity: Severity
    observed: str
    advice: str = ""
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """One row of a sum: ``processes`` times ``each``.

    Attributes:
        label: Whose connections or calls these are.
        processes: How many processes have them.
        each: How many each of the processes has; ``None`` for any number.
        how: Where ``each`` comes from.
    """

    label: str
    processes: int
    each: int | None
    how: str

    @property
    def total(self) -> int | None:
        """The product; ``None`` without a bound."""
        return None if self.each is None else self.processes * self.each


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A sum held against a limit.

    Attributes:
        title: What is counted, and where.
        terms: Its rows.
        limit: The most there may be; ``None`` where nobody has told.
        limit_how: Where the limit comes from.
    """

    title: str
    terms: tuple[Term, ...]
    limit: int | None
    limit_how: str

    @property
    def total(self) -> int | None:
        """The sum; ``None`` if a row has no bound."""
        totals = [term.total for term in self.terms]
        return None if None in totals else sum(total or 0 for total in totals)

    @property
    def fits(self) -> bool:
        """Whether the sum is at most the limit; true where there is none to hold it against."""
        return self.limit is None or (self.total is not None and self.total <= self.limit)


def worst_first(findings: list[Finding]) -> list[Finding]:
    """The findings by severity, in the order of the checks within one."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
