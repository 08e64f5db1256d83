"""Sentences → token ids, and which tokens continue a word.

In: sentences and a vocabulary. Out: every sentence's ids end to end, and how many each has; in languages written
without spaces, also which tokens continue the word before them.
What always holds: the ids are those of Hugging Face's BERT tokeniser with the same `vocab.txt`, without
[CLS] and [SEP]; also its reading of a literal "[MASK]" in the text as the special token. Memory is that of
the ids, beside one slice's work.

Example:
    ids, lengths = Encoder(vocabulary).encode(["The cat sat.", "It slept."])
    first = ids[: lengths[0]]
"""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.ragged import Growing, starts_of
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary
from pipeline.corpus.word_cutting import cut_words
from pipeline.corpus.word_table import WordTable
from pipeline.corpus.words import is_unspaced, word_begins

# Encoded at once. Arrays of so many words stay in a core's caches; where the tokeniser's own results are wanted,
# which take a hundred bytes a character, they stay under 30 MB.
_SLICE_CHARACTERS = 1 << 18
# Distinct words remembered, some 200 bytes each. English of 35 MB has 125,000.
_MOST_WORDS = 1 << 19


class Encoder:
    """Sentences → ids, each distinct word being tokenised once.

    One a process: what it remembers is worth keeping, and changes no id.
    """

    def __init__(self, vocabulary: Vocabulary, *, most_words: int = _MOST_WORDS) -> None:
        self.vocabulary = vocabulary
        self._model = vocabulary.tokenizer.model
        self._most_words = most_words
        self._forget()

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of all `sentences`, flat (uint32), and each sentence's number of them (int64).

        A sentence of characters that BERT's normaliser deletes has none.
        """
        ids, lengths = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]
        for part in _slices(sentences):
            for found in self._encode_slice(part):
                ids.append(found[0])
                lengths.append(found[1])
        return np.concatenate(ids), np.concatenate(lengths)

    def _encode_slice(self, sentences: list[str]) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        text = "\n".join(sentences)
        # Special tokens spelled out are looked for before anything is cut: sentences with one go whole.
        if "[" not in text or not _spelled_out(text):
            yield self._encode_lines(sentences, text)
            return
        for spelled, group in groupby(sentences, key=_spelled_out):
            part = list(group)
            yield _laid_out(self._ids_of(part)) if spelled else self._encode_lines(part, "\n".join(part))

    def _encode_lines(self, sentences: list[str], lines: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of `sentences`, which are joined by line feeds in `lines`."""
        text = lines.encode()
        if not self.vocabulary.cased:
            text = text.lower()  # ASCII's letters alone, as the tokeniser will: a fifth fewer words to learn
        if b"\0" in text:
            text = text.replace(b"\0", b"\1")  # the tokeniser deletes both, and words may not hold the one
        line_ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        if len(line_ends) != len(sentences) - 1:  # inside a sentence it is white space like any other
            sentences = [sentence.replace("\n", " ") for sentence in sentences]
            return self._encode_lines(sentences, "\n".join(sentences))
        if len(self._words) > self._most_words:
            self._forget()
        starts, ends = cut_words(text)
        numbers, new = self._words.look_up(text, starts, ends)
        if new:
            self._learn(new)
        counts = self._counts.values[numbers]
        bounds = starts_of(counts)
        # Of each id, its word's first one's place among those remembered, and how many ids into the word it is.
        places = np.repeat(self._firsts.values[numbers] - bounds[:-1], counts) + np.arange(bounds[-1])
        lines_of_words = np.concatenate([[0], np.searchsorted(starts, line_ends), [len(starts)]])
        return self._ids.values[places], np.diff(bounds[lines_of_words])

    def _learn(self, words: list[bytes]) -> None:
        """Tokenise words that are new, which have the next numbers."""
        # Most of the time to tokenise a word goes into normalising and cutting, which change nothing in words of
        # ASCII letters and digits: those go to the model itself, six times as fast.
        others = iter(self._ids_of([word.decode() for word in words if not word.isalnum()]))
        ids, counts = _laid_out(
            [
                [piece.id for piece in self._model.tokenize(word.decode())]
                if word.isalnum()
                else next(others)
                for word in words
            ]
        )
        self._counts.add(counts)
        self._firsts.add(len(self._ids) + starts_of(counts)[:-1])
        self._ids.add(ids)

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        """What the tokeniser itself makes of each text."""
        encoded = self.vocabulary.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [each.ids for each in encoded]

    def _forget(self) -> None:
        self._words = WordTable()
        # Of each word, where its ids begin in `_ids`, and their number.
        self._firsts, self._counts = Growing(np.int64), Growing(np.int64)
        self._ids = Growing(np.uint32)


def _spelled_out(text: str) -> bool:
    """Whether the name of a special token stands in `text`."""
    return any(special in text for special in SPECIALS)


def _laid_out(ids: list[list[int]]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The lists end to end, and their lengths."""
    return np.fromiter(chain.from_iterable(ids), np.uint32), np.fromiter(map(len, ids), np.int64, len(ids))


def encode_words(
    vocabulary: Vocabulary, sentences: Sequence[str], language: str
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.bool_]]:
    """What `Encoder.encode` gives, and for each token whether it continues the word of the token before it (bool).

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


def continues_by_pieces(
    vocabulary: Vocabulary, ids: NDArray[np.uint32], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """For each of the `ids` of sentences, whether it is a piece that continues the token before it (bool)."""
    is_piece = np.zeros(vocabulary.size, np.bool_)
    is_piece[list(vocabulary.continuing_ids)] = True
    continues = is_piece[ids]
    continues[(np.cumsum(lengths) - lengths)[lengths > 0]] = False
    return continues


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
    ends = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)))
    first = taken = 0
    while first < len(sentences):
        last = max(first + 1, int(np.searchsorted(ends, taken + _SLICE_CHARACTERS, side="right")))
        yield list(sentences[first:last])
        first, taken = last, int(ends[last - 1])
