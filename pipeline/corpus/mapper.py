"""Map: one bundle of the corpus's splits → its spill (read, filter, hash, segment, tokenise, sort by hash).

In: splits and a vocabulary. Out: runs of tokenised documents and a mark, `<stem>.json`, written last.
What always holds: a spill with a mark is whole; memory is bounded by a run and the longest document; what is
in a spill is a function of the splits' content, the vocabulary, the options and the source's weight.

Example:
    spill = map_splits(MapTask(splits=bundle, read=ReadOptions(), language="en", words=False,
                              vocabulary="SHARDS/vocab", vocabulary_hash=hash, folder="SHARDS/.work", stem="spill-0"))
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import chain

import numpy as np

from pipeline import storage
from pipeline.corpus.casing import Letters
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.filter_counts import FilterCounts, from_plain
from pipeline.corpus.filters import Filtering, open_filtering
from pipeline.corpus.readers import ReadOptions, read_documents
from pipeline.corpus.runs import Run, Tokenised, read_runs
from pipeline.corpus.sentences import segment
from pipeline.corpus.spills import SpillWriter
from pipeline.corpus.splits import Split
from pipeline.corpus.tokens import Encoder, continues_by_pieces, encode_words
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.corpus.weights import sets_of

# A batch ends at so many characters, or at so many documents: empty rows have no characters.
_BATCH_CHARACTERS = 1 << 19
_BATCH_DOCUMENTS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class MapTask:
    """What a worker needs to map a bundle.

    words: whether to note which tokens continue a word; by_library: whether the language's library finds the words
        then, or the vocabulary's pieces tell them
    source: the number of the source that the bundle is of; weight: its weight, by draws of `seed`
    """

    splits: tuple[Split, ...]
    read: ReadOptions
    language: str
    words: bool
    vocabulary: str
    vocabulary_hash: str
    folder: str
    stem: str
    by_library: bool = True
    source: int = 0
    weight: float = 1.0
    seed: int = 1

    @property
    def bytes(self) -> int:
        """About how many bytes are to be read."""
        return sum(split.bytes for split in self.splits)


@dataclass(frozen=True, kw_only=True)
class Spill:
    """What came of one bundle: its runs, counts of documents (with text; without a token) and of tokens.

    tokens, unknown: of all documents, repeated ones too, and those of them that are [UNK]
    replaced, skipped: documents that were no UTF-8, by what was done about them
    letters: of the documents' beginnings by script, and those that lose a mark; where uncased
    filters: what each filter did, where some are on; documents that they dropped are in no other count, but in the
        fingerprint, which is that of what was read
    source: the number of the source that the bundle is of
    left_out: documents that its weight leaves out, which are in no other count, but in the fingerprint and in filters
    """

    stem: str
    runs: tuple[Run, ...]
    fingerprint: Fingerprint
    empty: int
    tokens: int
    unknown: int
    replaced: int = 0
    skipped: int = 0
    letters: dict[str, tuple[int, int]] = field(default_factory=dict)
    filters: dict[str, FilterCounts] = field(default_factory=dict)
    source: int = 0
    left_out: int = 0


@dataclass(kw_only=True)
class _Seen:
    """What is counted on the way from documents to batches.

    letters is None where the vocabulary is cased, filtering where no filter is on.
    """

    fingerprint: Fingerprint
    invalid: Counter[str]
    letters: Letters | None
    filtering: Filtering | None = None
    left_out: int = 0


@dataclass(frozen=True)
class _Pending:
    """Documents to be tokenised at once; `copies`: sets of pairs that each gives."""

    hashes: list[tuple[int, int]] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)
    sentence_counts: list[int] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


def map_splits(task: MapTask) -> Spill:
    """Write the bundle's spill. Raises InputError where a split can't be read."""
    encoder = _encoder(task.vocabulary, task.vocabulary_hash)
    vocabulary = encoder.vocabulary
    writer = SpillWriter(task.folder, task.stem)
    seen = _Seen(
        fingerprint=Fingerprint(),
        invalid=Counter(),
        letters=None if vocabulary.cased else Letters(),
        filtering=open_filtering(task.read.filters),
    )
    rows = kept = tokens = unknown = 0
    for pending in _batches(task, seen):
        rows += len(pending.hashes)
        batch = _tokenise(pending, encoder, task)
        kept += len(batch.high)
        tokens += len(batch.tokens)
        unknown += int((batch.tokens == vocabulary.unk_id).sum())
        writer.add(batch)
    spill = Spill(
        stem=task.stem,
        runs=writer.finish(),
        fingerprint=seen.fingerprint,
        empty=rows - kept,
        tokens=tokens,
        unknown=unknown,
        replaced=seen.invalid["replaced"],
        skipped=seen.invalid["skipped"],
        letters=seen.letters.counts if seen.letters is not None else {},
        filters=seen.filtering.counts if seen.filtering is not None else {},
        source=task.source,
        left_out=seen.left_out,
    )
    storage.write_json(os.path.join(task.folder, f"{task.stem}.json"), asdict(spill))
    return spill


def read_spill(folder: str, stem: str) -> Spill | None:
    """The finished spill of that name, whether its runs are still there or not; None where there is none."""
    path = os.path.join(folder, f"{stem}.json")
    if not os.path.exists(path):
        return None
    mark = storage.read_json(path)
    counts = {name: mark[name] for name in ("empty", "tokens", "unknown", "replaced", "skipped")}
    letters = {script: (each[0], each[1]) for script, each in mark["letters"].items()}
    return Spill(
        stem=stem,
        runs=read_runs(mark["runs"]),
        fingerprint=Fingerprint(**mark["fingerprint"]),
        letters=letters,
        filters=from_plain(mark.get("filters", {})),
        source=mark.get("source", 0),
        left_out=mark.get("left_out", 0),
        **counts,
    )


@lru_cache(maxsize=1)
def _encoder(folder: str, vocabulary_hash: str) -> Encoder:
    # Once a process; the hash stands in the key for processes that see several vocabularies in one folder.
    vocabulary = load_vocabulary(folder)
    if vocabulary.hash != vocabulary_hash:
        raise ValueError(f"{folder} changed while shards were made of it")
    return Encoder(vocabulary)


def _batches(task: MapTask, seen: _Seen) -> Iterator[_Pending]:
    pending, characters = _Pending(), 0
    for document in chain.from_iterable(read_documents(split, task.read) for split in task.splits):
        if document.invalid is not None:
            seen.invalid[document.invalid] += 1
            if document.invalid == "skipped":
                continue
        # The corpus is known by what was read, a document by what filters leave of it.
        identity = seen.fingerprint.add(document.text) if document.text else (0, 0)
        if seen.filtering is not None and document.text:
            kept = seen.filtering.take(document, identity)
            if kept is None:
                continue
            document, identity = kept
        copies = sets_of(task.weight, task.seed, identity[0]) if document.text else 1
        if not copies:
            seen.left_out += 1
            continue
        if seen.letters is not None:
            seen.letters.add(document.text)
        sentences = document.sentences
        if sentences is None:
            sentences = tuple(segment(document.text, task.language))
        pending.hashes.append(identity)
        pending.copies.append(copies)
        pending.sentence_counts.append(len(sentences))
        pending.sentences.extend(sentences)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(pending.hashes) >= _BATCH_DOCUMENTS:
            yield pending
            pending, characters = _Pending(), 0
    if pending.hashes:
        yield pending


def _tokenise(pending: _Pending, encoder: Encoder, task: MapTask) -> Tokenised:
    """The documents' tokens, without sentences that have none and documents that have no sentence left."""
    continues = None
    if task.words and task.by_library:
        tokens, lengths, continues = encode_words(encoder.vocabulary, pending.sentences, task.language)
    else:
        tokens, lengths = encoder.encode(pending.sentences)
        if task.words:
            continues = continues_by_pieces(encoder.vocabulary, tokens, lengths)
    documents = len(pending.hashes)
    owner = np.repeat(np.arange(documents), pending.sentence_counts)
    counts = np.bincount(owner[lengths > 0], minlength=documents)
    hashes = np.array(pending.hashes, dtype=np.uint64).reshape(documents, 2)[counts > 0]
    copies = np.array(pending.copies, dtype=np.uint8)[counts > 0]
    return Tokenised(
        high=hashes[:, 0],
        low=hashes[:, 1],
        copies=copies,
        source=np.full(len(hashes), task.source, np.uint16),
        sentence_counts=counts[counts > 0].astype(np.int64),
        sentence_lengths=lengths[lengths > 0].astype(np.uint32),
        tokens=tokens.astype(np.uint16 if encoder.vocabulary.size <= 1 << 16 else np.uint32),
        continues=continues,
    )
