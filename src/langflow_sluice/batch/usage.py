"""The tokens of many answers, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfx.schema.properties import Usage


class UsageSum:
    """Adds up what a model's answers report. Not for several threads at once.

    Langflow's own ``accumulate_usage`` is for the parts of one answer: it takes the largest of them.
    """

    def __init__(self) -> None:
        self._input_tokens = 0
        self._output_tokens = 0
        self._total_tokens = 0

    def add(self, answer: Any) -> None:
        """Adds the usage of one answer, if it reports any."""
        from lfx.schema.token_usage import extract_usage_from_message

        usage = extract_usage_from_message(answer)
        if usage is None:
            return
        sent, received = usage.input_tokens or 0, usage.output_tokens or 0
        self._input_tokens += sent
        self._output_tokens += received
        self._total_tokens += usage.total_tokens or sent + received

    def as_dict(self) -> dict[str, int]:
        """The sums by LangChain's names."""
        return {
            "input_tokens": self._input_tokens,
            "output_tokens": self._output_tokens,
            "total_tokens": self._total_tokens,
        }

    def as_usage(self) -> Usage | None:
        """The sums as Langflow keeps them of a node; None if nothing was reported."""
        from lfx.schema.properties import Usage

        return Usage(**self.as_dict()) if self._total_tokens else None

    def line(self) -> str:
        """The sums in a few words."""
        if not self._total_tokens:
            return "No usage reported"
        return f"{self._input_tokens} input + {self._output_tokens} output = {self._total_tokens} tokens"
