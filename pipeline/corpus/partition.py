"""A partition: the tokenised documents that one shard is made of, laid end to end.

In: arrays. Out: the same, named. What always holds: documents ascend by hash, no sentence and no document is empty.

Example:
    first, last = partition.document_offsets[:2]  # the first document's sentences
    start, stop = partition.sentence_offsets[[first, last]]  # and its tokens
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Tokenised documents, ascending by hash.

    tokens: uint16 or uint32, all documents laid end to end
    sentence_offsets: int64 (sentences + 1), where each sentence's tokens start
    document_offsets: int64 (documents + 1), each document's first sentence
    document_hashes: uint64 (documents), the upper half of each document's hash
    continues: bool (tokens), those that continue the word before them; None where words are not wanted
    """

    tokens: NDArray[Any]
    sentence_offsets: NDArray[np.int64]
    document_offsets: NDArray[np.int64]
    document_hashes: NDArray[np.uint64]
    continues: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.document_hashes)
