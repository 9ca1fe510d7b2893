from __future__ import annotations

import math
import subprocess
import sys

import pytest

from langflow_sluice.simulator import embed
from langflow_sluice.simulator.words import words

DOCUMENTS = [
    "A circuit breaker opens when the service keeps failing, and probes before it closes.",
    "A bulkhead limits how many calls are in flight at once.",
    "Backpressure makes the producer wait until the consumer has caught up.",
    "The harbour master collects the mooring fees every Monday.",
]


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("question", "nearest"),
    [
        ("What limits the number of calls in flight?", 1),
        ("When does the breaker open?", 0),
        ("who collects mooring fees", 3),
        ("Why does a producer have to wait?", 2),
    ],
)
@pytest.mark.parametrize("dimensions", [64, 384, 1536])
def test_the_document_that_answers_is_the_nearest(question: str, nearest: int, dimensions: int) -> None:
    asked = embed(question, dimensions)
    nearness = [cosine(asked, embed(document, dimensions)) for document in DOCUMENTS]
    assert nearness.index(max(nearness)) == nearest


@pytest.mark.parametrize("text", ["one", "the of and", "?!", "grüße 世界", "word " * 1000])
def test_every_text_gets_a_vector_of_unit_length(text: str) -> None:
    vector = embed(text, 16)
    assert len(vector) == 16
    assert math.isclose(math.hypot(*vector), 1.0)


def test_words_that_cancel_each_other_out_still_give_a_direction() -> None:
    pairs = [f"{a} {b}" for a in ("alpha", "beta", "gamma", "delta") for b in ("red", "blue", "green", "black")]
    assert all(math.isclose(abs(embed(pair, 1)[0]), 1.0) for pair in pairs)


def test_the_vector_is_the_same_in_another_process() -> None:
    code = "from langflow_sluice.simulator import embed; print(embed('a stable hash', 8))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert other.stdout.strip() == str(embed("a stable hash", 8))


def test_forms_of_a_word_are_one_word() -> None:
    assert len({tuple(words(form)) for form in ("limit", "limits", "limited", "limiting", "LIMIT")}) == 1
    assert words("stores") == words("storing") == words("stored") == words("store")
