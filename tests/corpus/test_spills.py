"""Spills: what map hands to reduce, each document once, whatever came how often."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus import runs as runs_module
from pipeline.corpus.census import take_census
from pipeline.corpus.partition import Partition
from pipeline.corpus.ragged import starts_of
from pipeline.corpus.runs import EVERYTHING, Run, Tokenised, read_hashes, read_range
from pipeline.corpus.spills import SpillWriter

Document = tuple[int, list[list[int]]]  # its hash, its sentences' tokens


def tokenised(documents: list[Document]) -> Tokenised:
    sentences = [sentence for _, document in documents for sentence in document]
    return Tokenised(
        high=np.array([high for high, _ in documents], np.uint64),
        low=np.array([high + 1 for high, _ in documents], np.uint64),
        copies=np.ones(len(documents), np.uint8),
        source=np.zeros(len(documents), np.uint16),
        sentence_counts=np.array([len(document) for _, document in documents]),
        sentence_lengths=np.array([len(sentence) for sentence in sentences], np.uint32),
        tokens=np.array([token for sentence in sentences for token in sentence], np.uint16),
    )


def spilled(folder: Path, parts: list[list[Document]]) -> list[Run]:
    """Each part as a run of its own."""
    runs: list[Run] = []
    for index, part in enumerate(parts):
        writer = SpillWriter(str(folder), f"spill-{index}")
        for document in part:
            writer.add(tokenised([document]))
        runs += writer.finish()
    return runs


def everything(folder: Path, runs: list[Run]) -> list[Document]:
    partition = Partition.of(read_range(str(folder), runs, EVERYTHING))
    found = []
    for index, high in enumerate(partition.document_hashes.tolist()):
        first, last = partition.document_offsets[index : index + 2]
        bounds = partition.sentence_offsets[first : last + 1].tolist()
        sentences = [partition.tokens[start:stop].tolist() for start, stop in pairwise(bounds)]
        found.append((high, sentences))
    return found


ONE: Document = (900, [[1, 2], [3]])
TWO: Document = (5, [[4, 5, 6]])
THREE: Document = (1 << 63, [[7], [8], [9, 10]])


def test_a_run_holds_each_document_once_and_counts_all_that_came(tmp_path: Path) -> None:
    (run,) = spilled(tmp_path, [[ONE, TWO, ONE, ONE, TWO]])
    assert (run.documents, run.distinct) == (5, 2)
    assert read_hashes(str(tmp_path), [run], EVERYTHING)[0].tolist() == [5, 900]
    census = take_census(str(tmp_path), [run], came=5, validation_fraction=0.0, seed=1)
    assert (census.documents, census.duplicates) == (2, 3)


@pytest.mark.parametrize(
    "parts",
    [
        [[ONE, TWO, THREE]],
        [[THREE], [TWO], [ONE]],
        [[ONE, TWO, ONE], [THREE, ONE, TWO], [TWO]],
        [[ONE, TWO, THREE]] * 5,
    ],
)
def test_runs_together_give_each_document_once_in_the_order_of_hashes(
    tmp_path: Path, parts: list[list[Document]]
) -> None:
    assert everything(tmp_path, spilled(tmp_path, parts)) == [TWO, ONE, THREE]


def test_which_copy_stays_is_decided_by_content_within_a_run_as_across_runs(tmp_path: Path) -> None:
    copies: list[Document] = [(900, [[1, 2], [3]]), (900, [[1], [2, 3]]), (900, [[1, 2, 3]])]
    kept = []
    for name, parts in (("a", [copies]), ("b", [copies[::-1]]), ("c", [[copy] for copy in copies])):
        (tmp_path / name).mkdir()
        kept.append(everything(tmp_path / name, spilled(tmp_path / name, parts)))
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 1


def test_of_copies_that_differ_in_their_words_alone_the_same_one_stays(tmp_path: Path) -> None:
    """The same tokens, with words found in other white space."""
    copies = [
        replace(tokenised([ONE]), continues=np.array(flags, np.bool_)) for flags in ([0, 1, 0], [0, 0, 0])
    ]
    kept = []
    for name, order in (("a", copies), ("b", copies[::-1])):
        (tmp_path / name).mkdir()
        writer = SpillWriter(str(tmp_path / name), "spill")
        for copy in order:
            writer.add(copy)
        partition = read_range(str(tmp_path / name), writer.finish(), EVERYTHING)
        assert partition.continues is not None
        kept.append(partition.continues.tolist())
    assert kept[0] == kept[1] in ([False, True, False], [False, False, False])


def test_of_documents_in_many_runs_one_copy_is_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = spilled(tmp_path, [[ONE, THREE]] * 20)
    gathered = 0
    gather = runs_module.gather

    def counted(flat: Any, starts: Any, stops: Any) -> Any:
        nonlocal gathered
        gathered += int((stops - starts).sum())
        return gather(flat, starts, stops)

    monkeypatch.setattr(runs_module, "gather", counted)
    assert everything(tmp_path, runs) == [ONE, THREE]
    # Sentences' lengths (5) and tokens (7), once from the runs and once into order.
    assert gathered == 2 * (5 + 7)


def test_no_documents_give_an_empty_partition(tmp_path: Path) -> None:
    partition = Partition.of(read_range(str(tmp_path), [], EVERYTHING))
    assert len(partition) == len(partition.tokens) == 0
    assert partition.document_offsets.tolist() == starts_of(np.zeros(0)).tolist() == [0]
