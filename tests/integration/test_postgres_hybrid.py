"""What hybrid search is for, on a labelled set: terse notes and long reports of a town's waterworks, and questions.

The simulator's embeddings see the share of words that two texts have in common. They find a terse note by a wordy
question, and lose a long report behind terse notes though it alone has the number that was asked for; words alone do
the opposite.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from langflow_sluice.postgres.documents import DocumentRow
from langflow_sluice.postgres.engines import engine_for
from langflow_sluice.postgres.search import CollectionSearch
from langflow_sluice.postgres.search_settings import SearchSettings
from langflow_sluice.postgres.url import parse_database_url
from langflow_sluice.postgres.writer import CollectionWriter
from langflow_sluice.simulator.embedding import embed

if TYPE_CHECKING:
    import pytest

LABELLED = json.loads(Path(__file__).with_name("waterworks.json").read_text("utf-8"))
DIMENSIONS = 384
RESULTS = 5


async def test_hybrid_finds_what_similarity_alone_and_keywords_alone_each_miss(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = engine_for(parse_database_url(database_url))
    rows = [DocumentRow(text, {"id": id_}, embed(text, DIMENSIONS)) for id_, text in LABELLED["documents"].items()]
    await CollectionWriter(engine, "waterworks").write(rows)
    search = CollectionSearch(engine, "waterworks")

    async def found_by(search_type: str) -> set[str]:
        settings = SearchSettings(search_type=search_type, number_of_results=RESULTS)
        found = set()
        for question, answer in LABELLED["questions"]:
            hits = await search.find(settings, text=question, embedding=embed(question, DIMENSIONS))
            if answer in [hit.metadata["id"] for hit in hits]:
                found.add(question)
        return found

    similarity, keyword, hybrid = [await found_by(each) for each in ("similarity", "keyword", "hybrid")]
    everything = {question for question, _ in LABELLED["questions"]}
    with capsys.disabled():
        recall = {"similarity": similarity, "keyword": keyword, "hybrid": hybrid}
        told = ", ".join(f"{name} {len(found) / len(everything):.2f}" for name, found in recall.items())
        print(f"\nRecall at {RESULTS} over {len(rows)} texts and {len(everything)} questions: {told}")  # noqa: T201
    assert (everything - similarity) & hybrid
    assert (everything - keyword) & hybrid
    assert len(hybrid) > max(len(similarity), len(keyword))
