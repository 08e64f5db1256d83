"""Sentences → token ids, and which tokens continue a word.

In: sentences and a vocabulary. Out: every sentence's ids end to end, and how many each has; in languages written
without spaces, also which tokens continue the word before them.
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
from pipeline.corpus.words import is_unspaced, word_begins

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


def encode_words(
    vocabulary: Vocabulary, sentences: Sequence[str], language: str
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
    """What `encode_sentences` gives, and for each token whether it continues the word of the token before it (bool).

    language: one whose words `word_begins` finds
    """
    ids, lengths, continues = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    is_piece = np.zeros(vocabulary.size, np.bool_)
    is_piece[list(vocabulary.continuing_ids)] = True
    for part in _slices(sentences):
        encoded = vocabulary.tokenizer.encode_batch(part, add_special_tokens=False)
        ids.append(np.fromiter(chain.from_iterable(each.ids for each in encoded), np.uint32))
        lengths.append(np.array([len(each) for each in encoded], np.int64))
        bounds = chain.from_iterable(chain.from_iterable(each.offsets for each in encoded))
        first_characters = np.fromiter(bounds, np.int64)[::2]
        words, unspaced = _words(part, language, first_characters, lengths[-1])
        # The library's boundary counts where a word without spaces lies on either side; between others, and inside
        # them (`3.14`), the vocabulary's pieces decide, as in every other language.
        same = words[1:] == words[:-1]
        follows = np.where(unspaced[1:] | unspaced[:-1], same, is_piece[ids[-1][1:]])
        continues.append(np.concatenate([np.zeros(min(1, len(words)), np.bool_), follows]))
        firsts = np.cumsum(lengths[-1]) - lengths[-1]
        continues[-1][firsts[lengths[-1] > 0]] = False
    return np.concatenate(ids), np.concatenate(lengths), np.concatenate(continues)


def _words(
    sentences: Sequence[str], language: str, first_characters: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each token the number of the word that it begins in, and whether that is one of a script without spaces.

    first_characters: where in its sentence each token begins
    lengths: tokens of each sentence
    """
    begins = word_begins(sentences, language)
    codes = np.frombuffer("".join(sentences).encode("utf-32-le"), np.uint32)
    unspaced = np.logical_or.reduceat(is_unspaced(codes), np.flatnonzero(begins)) if len(codes) else begins
    characters = np.fromiter(map(len, sentences), np.int64, len(sentences))
    places = first_characters + np.repeat(np.cumsum(characters) - characters, lengths)
    words = (np.cumsum(begins) - 1)[places]
    return words, unspaced[words]


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
