"""What filters did to a corpus: counts and examples, gathered document by document in any order.

In: what became of documents. Out: counts that merge, as plain values for marks and manifests, and as lines for a
person. What always holds: counts and examples follow from the corpus alone, not from the order of its documents or
who read them: the examples are those of the lowest hashes; each stands as filters left it, so nothing that was
redacted, and no hash of it, is in any.

Example:
    merged = merge_counts([spill.filters for spill in spills])
    describe(as_plain(merged), {"length": 100})
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_EXAMPLES = 3
_BEFORE, _BEHIND = 40, 60  # characters of an example around the place it shows
_BEGINNING = 80  # characters of a dropped document
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # line ends, and what terminals obey


@dataclass(frozen=True, order=True)
class Example:
    """A document that a filter changed or dropped.

    document: the upper half of its hash, as shards have it, in hexadecimal; of the text that filters left
    text: an excerpt of that text around the place, or its beginning where it was dropped
    value: what was measured of a dropped one
    """

    document: str
    text: str
    value: float | None = None


@dataclass(kw_only=True)
class FilterCounts:
    """What one filter did.

    documents: those changed or dropped; dropped: those dropped, or left without text
    matches: pieces replaced or taken out; characters: of these pieces, or of the documents dropped
    examples: up to three, of different documents, ascending
    """

    documents: int = 0
    dropped: int = 0
    matches: int = 0
    characters: int = 0
    examples: list[Example] = field(default_factory=list)

    def wants(self, document: str) -> bool:
        """Whether an example of this document might stay."""
        return len(self.examples) < _EXAMPLES or document <= self.examples[-1].document

    def offer(self, example: Example) -> None:
        """Keep the example if it is among the lowest, one a document."""
        least: dict[str, Example] = {}
        for each in sorted([*self.examples, example]):
            least.setdefault(each.document, each)
        self.examples = list(least.values())[:_EXAMPLES]

    def merge(self, other: "FilterCounts") -> None:
        """Count in what another process gathered."""
        self.documents += other.documents
        self.dropped += other.dropped
        self.matches += other.matches
        self.characters += other.characters
        for example in other.examples:
            self.offer(example)


def merge_counts(gathered: Iterable[Mapping[str, FilterCounts]]) -> dict[str, FilterCounts]:
    """The counts of all of them, by filter."""
    total: dict[str, FilterCounts] = {}
    for counts in gathered:
        for name, each in counts.items():
            total.setdefault(name, FilterCounts()).merge(each)
    return total


def as_plain(counts: Mapping[str, FilterCounts]) -> dict[str, Any]:
    """The form in which artefacts record it."""
    return {
        name: {
            **{each: getattr(found, each) for each in ("documents", "dropped", "matches", "characters")},
            "examples": [
                {"document": each.document, "text": each.text}
                | ({} if each.value is None else {"value": each.value})
                for each in found.examples
            ],
        }
        for name, found in counts.items()
    }


def from_plain(value: Mapping[str, Any]) -> dict[str, FilterCounts]:
    """What `as_plain` gave."""
    return {
        name: FilterCounts(**found | {"examples": [Example(**each) for each in found["examples"]]})
        for name, found in value.items()
    }


def dropped_documents(plain: Mapping[str, Any]) -> int:
    """How many documents all filters dropped."""
    return sum(found["dropped"] for found in plain.values())


def describe(plain: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, str]:
    """What each filter did, in a few words, by its name and limit."""
    said = {}
    for name, found in plain.items():
        limit = limits.get(name)
        characters = f"{found['characters']:,} characters"
        if _is_number(limit):
            said[f"{name} {limit:g}"] = f"{_documents(found['dropped'])} dropped, {characters}"
            continue
        emptied = f", {found['dropped']:,} left empty and dropped" if found["dropped"] else ""
        pieces = f"{found['matches']:,} in {_documents(found['documents'])}, {characters}"
        said[name] = pieces + emptied
    return said


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _documents(count: int) -> str:
    return f"{count:,} document{'' if count == 1 else 's'}"


def excerpt(text: str, place: int, mark: str) -> str:
    """The text around `place`, where `mark` is put."""
    start, end = max(0, place - _BEFORE), place + _BEHIND
    before = ("…" if start else "") + text[start:place]
    return _CONTROL.sub(" ", before + mark + text[place:end] + ("…" if end < len(text) else ""))


def beginning(text: str) -> str:
    """The first characters of a text."""
    return _CONTROL.sub(" ", text[:_BEGINNING] + ("…" if len(text) > _BEGINNING else ""))
