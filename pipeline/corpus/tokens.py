"""Sentences → token ids.

In: sentences and a vocabulary. Out: every sentence's ids end to end, and how many each has.
What always holds: the ids are those of Hugging Face's BERT tokeniser with the same `vocab.txt`, without
[CLS] and [SEP]; also its reading of a literal "[MASK]" in the text as the special token. Memory is that of
the ids, beside one slice's work.

Example:
    ids, lengths = encode_sentences(vocabulary, ["The cat sat.", "It slept."])
    first = ids[: lengths[0]]
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.vocabulary import Vocabulary

# Handed to the tokeniser in one call, whose results take a hundred bytes a character: enough that the call
# costs nothing beside them, few enough for 50 MB.
_SLICE_CHARACTERS = 1 << 19


def encode_sentences(
    vocabulary: Vocabulary, sentences: Sequence[str]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The ids of all `sentences`, flat (uint32), and each sentence's number of them (int64).

    A sentence of characters that BERT's normaliser deletes has none.
    """
    ids, lengths = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
    for part in _slices(sentences):
        encoded = [
            each.ids for each in vocabulary.tokenizer.encode_batch_fast(part, add_special_tokens=False)
        ]
        ids.append(np.fromiter(chain.from_iterable(encoded), np.uint32))
        lengths.append(np.array([len(each) for each in encoded], np.int64))
    return np.concatenate(ids), np.concatenate(lengths)


def _slices(sentences: Sequence[str]) -> Iterator[list[str]]:
    """The sentences, in order, in lists of bounded text (or of one sentence)."""
    part: list[str] = []
    characters = 0
    for sentence in sentences:
        part.append(sentence)
        characters += len(sentence)
        if characters >= _SLICE_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
