"""What is asked of a search beside the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from langflow_sluice.errors import InvalidInput

if TYPE_CHECKING:
    from langflow_sluice.postgres.filters import Filter

SearchType = Literal["similarity", "mmr", "keyword", "hybrid"]
SEARCH_TYPES: tuple[SearchType, ...] = get_args(SearchType)
MAX_RESULTS = 10_000


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search; hashable, and equal if it finds the same.

    Attributes:
        search_type: ``similarity`` by embedding; ``mmr``, which chooses among the nearest those unlike one another;
            ``keyword`` by words; ``hybrid`` by both.
        number_of_results: The most rows to return, from 1 to 10,000.
        score_threshold: Rows with a lower score are left out. In a hybrid search it is the cosine similarity of those
            found by embedding; those found by words stay.
        filter: What a row's metadata must be; see ``read_filter``.
        exact: Whether to compare all rows, instead of reading an index that is fast and may miss some.
        fetch_k: Rows that ``mmr`` chooses from, and that ``hybrid`` takes of each list; ``number_of_results`` if that
            is more.
        mmr_lambda: From 0, the most diverse results, to 1, the most relevant.

    Raises:
        InvalidInput: One of them is out of its range; names it.
    """

    search_type: SearchType = "similarity"
    number_of_results: int = 4
    score_threshold: float | None = None
    filter: Filter | None = None
    exact: bool = False
    fetch_k: int = 50
    mmr_lambda: float = 0.5

    def __post_init__(self) -> None:
        if self.search_type not in SEARCH_TYPES:
            choices = ", ".join(SEARCH_TYPES)
            problem = "there is no such search"
            raise InvalidInput.of("search_type", self.search_type, problem, fix=f"Choose one of {choices}.")
        for name in ("number_of_results", "fetch_k"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RESULTS:
                problem = f"it is not a whole number from 1 to {MAX_RESULTS}"
                raise InvalidInput.of(name, value, problem, fix="Set it to how many rows you want.")
        lowest = 0 if self.search_type == "keyword" else -1
        if self.score_threshold is not None and not _is_between(self.score_threshold, lowest, 1):
            problem = f"scores lie between {lowest} and 1"
            raise InvalidInput.of(
                "score_threshold", self.score_threshold, problem, fix="Set it between them, or leave it empty."
            )
        if not _is_between(self.mmr_lambda, 0, 1):
            problem = "it is no number from 0 to 1"
            raise InvalidInput.of("mmr_lambda", self.mmr_lambda, problem, fix="Set it to 0.5.")

    @property
    def needs_embedding(self) -> bool:
        """Whether the question must be embedded."""
        return self.search_type != "keyword"

    @property
    def depth(self) -> int:
        """Rows to read of each list that results are chosen from."""
        return max(self.fetch_k, self.number_of_results)


def _is_between(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and low <= value <= high
