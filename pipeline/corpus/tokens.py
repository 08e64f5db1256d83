"""Sentences → token ids.

In: sentences and a vocabulary. Out: every sentence's ids end to end, and how many each has.
What always holds: the ids are those of Hugging Face's BERT tokeniser with the same `vocab.txt`, without
[CLS] and [SEP]; also its reading of a literal "[MASK]" in the text as the special token.

Example:
    ids, lengths = encode_sentences(vocabulary, ["The cat sat.", "It slept."])
    first = ids[: lengths[0]]
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.vocabulary import Vocabulary


def encode_sentences(
    vocabulary: Vocabulary, sentences: Sequence[str]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids of all `sentences`, flat (uint32), and each sentence's number of them (int64).

    A sentence of characters that BERT's normaliser deletes has none.
    """
    encodings = vocabulary.tokenizer.encode_batch_fast(list(sentences), add_special_tokens=False)
    ids = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
    lengths = np.array([len(sentence) for sentence in ids], dtype=np.int64)
    return np.concatenate([np.empty(0, dtype=np.uint32), *ids]), lengths
