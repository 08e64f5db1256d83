"""A partition: the tokenised documents that one shard is made of, laid end to end.

In: arrays. Out: the same, named. What always holds: documents ascend by hash, no sentence and no document is empty.

Example:
    first, last = partition.document_offsets[:2]  # the first document's sentences
    start, stop = partition.sentence_offsets[[first, last]]  # and its tokens
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.ragged import starts_of
from pipeline.corpus.runs import Tokenised


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Tokenised documents, ascending by hash.

    tokens: uint16 or uint32, all documents laid end to end
    sentence_offsets: int64 (sentences + 1), where each sentence's tokens start
    document_offsets: int64 (documents + 1), each document's first sentence
    document_hashes: uint64 (documents), the upper half of each document's hash
    document_copies: uint8 (documents), sets of pairs that each gives
    document_sources: uint16 (documents), which of the corpus's sources each is of
    continues: bool (tokens), those that continue the word before them; None where words are not wanted
    """

    tokens: NDArray[Any]
    sentence_offsets: NDArray[np.int64]
    document_offsets: NDArray[np.int64]
    document_hashes: NDArray[np.uint64]
    document_copies: NDArray[np.uint8]
    document_sources: NDArray[np.uint16]
    continues: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, documents: Tokenised) -> Self:
        """The partition of documents that ascend by hash."""
        return cls(
            tokens=documents.tokens,
            sentence_offsets=starts_of(documents.sentence_lengths),
            document_offsets=starts_of(documents.sentence_counts),
            document_hashes=documents.high,
            document_copies=documents.copies,
            document_sources=documents.source,
            continues=documents.continues,
        )

    def __len__(self) -> int:
        return len(self.document_hashes)
