"""What the demo ingests and asks: invented facts, each with the questions that only it answers."""

from __future__ import annotations

from dataclasses import dataclass

_PLACES = (
    ("Aldermoor", "lighthouse", "Tessa Grange", "1871", "granite"),
    ("Brackwater", "canal", "Owen Pellew", "1794", "clay"),
    ("Cindermouth", "foundry", "Ida Marchbanks", "1822", "brick"),
    ("Dunmere", "observatory", "Felix Arkwright", "1903", "copper"),
    ("Eastvale", "viaduct", "Harriet Loomis", "1859", "sandstone"),
    ("Fernhollow", "botanical garden", "Silas Quill", "1766", "glass"),
    ("Grimsby Hill", "windmill", "Martha Stonecroft", "1688", "oak"),
    ("Hartwick", "library", "Edmund Vane", "1911", "marble"),
    ("Inverlow", "harbour", "Rosalind Teague", "1840", "basalt"),
    ("Juniper Bay", "aquarium", "Piers Holloway", "1967", "acrylic"),
    ("Kestrel Point", "radio tower", "Nadia Winslow", "1932", "steel"),
    ("Lowbridge", "tannery", "Abel Thornby", "1735", "limestone"),
    ("Marlstone", "opera house", "Clara Desmond", "1888", "plaster"),
    ("Northgate", "railway station", "Jonas Eddington", "1851", "cast iron"),
    ("Oxbarrow", "cathedral", "Wilhelmina Sharpe", "1402", "flint"),
    ("Pennick", "tin mine", "Lucas Trevarrow", "1699", "slate"),
    ("Quarrendon", "theatre", "Beatrix Fallow", "1926", "concrete"),
    ("Ravensford", "paper mill", "Tobias Crane", "1803", "poplar"),
    ("Saltmarsh", "desalination plant", "Yusuf Calder", "2009", "titanium"),
    ("Thistledown", "weaving shed", "Agnes Birtwhistle", "1817", "pine"),
    ("Underfell", "ice rink", "Gustav Lindqvist", "1974", "aluminium"),
    ("Vexley", "planetarium", "Ottoline Frost", "1958", "zinc"),
    ("Wychbourne", "brewery", "Barnaby Hops", "1749", "cedar"),
    ("Yarrowdale", "suspension bridge", "Eleanor Kite", "1864", "hemp"),
    ("Zennorgate", "tidal mill", "Cuthbert Moyle", "1611", "elm"),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One document and what is asked about it.

    Attributes:
        sentence: The document, which is the answer to each of its questions.
        questions: Questions that it answers.
    """

    sentence: str
    questions: tuple[str, ...]


def facts() -> list[Fact]:
    """Fifty facts with four questions each."""
    return [fact for place in _PLACES for fact in (_builder(*place), _material(*place))]


def _builder(town: str, thing: str, builder: str, year: str, _: str) -> Fact:
    return Fact(
        f"The architect {builder} drew the plans for the {thing} of {town} in the year {year}.",
        (
            f"Which architect drew the plans for the {thing} of {town}?",
            f"In which year did the architect draw the plans for the {thing} of {town}?",
            f"What did the architect {builder} draw plans for?",
            f"Who was the architect of the {thing} in {town}, and in what year?",
        ),
    )


def _material(town: str, thing: str, _: str, __: str, material: str) -> Fact:
    return Fact(
        f"Workers repaired the {thing} at {town} with {material} that came by boat from the northern quarries.",
        (
            f"With what material did workers repair the {thing} at {town}?",
            f"Where did the {material} come from with which workers repaired the {thing} at {town}?",
            f"How did the {material} come by boat to {town} when workers repaired the {thing}?",
            f"Which {thing} was repaired with {material} by workers at {town}?",
        ),
    )


def questions(count: int) -> list[tuple[str, str]]:
    """Questions with the sentence that answers each; all different while there are enough."""
    pairs = [
        (question, fact.sentence) for index in range(4) for fact in facts() for question in (fact.questions[index],)
    ]
    return [pairs[index % len(pairs)] for index in range(count)]


def rows(count: int) -> list[str]:
    """Rows for a batch, one line each, all different."""
    kinds = ("late delivery", "broken handle", "wrong colour", "missing invoice", "friendly thank-you")
    return [f"Ticket {index}: {kinds[index % len(kinds)]} in parcel {index * 7919 % 9973}" for index in range(count)]
