"""What was seen of a source on the way to its words, and the documents that are left to be counted.

In: a bundle of a source. Out: its documents as filters leave them, each with how many times it counts, and a `Seen`.
What always holds: a `Seen` is a sum over documents, so it is the same in whatever order they came and whoever read
them; a document that the source's weight leaves out is in its corpus, but not kept.

Example:
    seen = Seen()
    for source, high, text, times in seen.documents(bundle, source): ...
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from pipeline.corpus.bundles import Bundle
from pipeline.corpus.casing import Letters
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.filter_counts import FilterCounts, as_plain, merge_counts
from pipeline.corpus.filters import open_filtering
from pipeline.corpus.readers import read_documents
from pipeline.corpus.sources import Source
from pipeline.corpus.weights import sets_of

# As `bertpipe shard` has it where nobody says otherwise: of a weight below one, the same documents are left out.
_SEED = 1


class Kept(NamedTuple):
    """A document that stays: the label it is measured under, the upper half of its hash, and its weight in sets."""

    label: str
    high: int
    text: str
    times: int


@dataclass(kw_only=True)
class Seen:
    """What was met.

    corpus: all documents that have text, as they were read; letters: of those kept
    invalid: documents that were "replaced" or "skipped" as no UTF-8
    kept, left_out: documents that filters, where some are on, let through, and that the weight then keeps or leaves out
    filters: what these did
    """

    corpus: Fingerprint = field(default_factory=Fingerprint)
    letters: Letters = field(default_factory=Letters)
    invalid: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    left_out: int = 0
    filters: dict[str, FilterCounts] = field(default_factory=dict)

    @classmethod
    def sum_of(cls, several: Iterable["Seen"]) -> Self:
        """All of them together."""
        total = cls()
        for each in several:
            total.merge(each)
        return total

    def merge(self, other: "Seen") -> None:
        """Count in what was met elsewhere."""
        self.corpus.merge(other.corpus)
        self.letters.merge(other.letters)
        self.invalid.update(other.invalid)
        self.kept += other.kept
        self.left_out += other.left_out
        self.filters = merge_counts([self.filters, other.filters])

    def documents(self, bundle: Bundle, source: Source) -> Iterator[Kept]:
        """The documents of a bundle that stay; what is met is counted. Raises InputError where one can't be read."""
        filtering = open_filtering(source.read.filters)
        for split in bundle:
            for document in read_documents(split, source.read):
                if document.invalid is not None:
                    self.invalid[document.invalid] += 1
                if not document.text:
                    continue
                identity = self.corpus.add(document.text)
                if filtering is not None:
                    left = filtering.take(document, identity)
                    if left is None:
                        continue
                    document, identity = left
                if not (times := sets_of(source.weight, _SEED, identity[0])):
                    self.left_out += 1
                    continue
                self.kept += 1
                self.letters.add(document.text)
                yield Kept(split.source, identity[0], document.text, times)
        if filtering is not None:
            self.filters = merge_counts([self.filters, filtering.counts])

    def as_dict(self) -> dict[str, Any]:
        """The form in which artefacts record what became of a source's documents."""
        filters = as_plain(self.filters)
        return {"documents": self.kept, "left_out": self.left_out} | ({"filters": filters} if filters else {})
