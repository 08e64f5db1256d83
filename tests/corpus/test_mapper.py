"""Map: bounded batches, and counts of what the vocabulary doesn't know."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import mapper
from pipeline.corpus.mapper import MapTask, map_splits, read_spill
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocabulary import load_vocabulary


@pytest.fixture
def task(tmp_path: Path, word_vocabulary: str) -> Any:
    def make(rows: list[str | None]) -> MapTask:
        pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), tmp_path / "rows.parquet")
        return MapTask(
            splits=tuple(find_splits([str(tmp_path / "rows.parquet")])),
            read=ReadOptions(sentences="lines"),
            language="en",
            words=False,
            vocabulary=word_vocabulary,
            vocabulary_hash=load_vocabulary(word_vocabulary).hash,
            folder=str(tmp_path),
            stem="spill-0",
        )

    return make


def test_rows_without_text_are_batched_too(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapper, "_BATCH_DOCUMENTS", 50)
    made = task([None] * 120 + ["bab bad."] + [""] * 30)
    seen = mapper._Seen(fingerprint=mapper.Fingerprint(), invalid=Counter(), letters=None)
    batches = [len(pending.hashes) for pending in mapper._batches(made, seen)]
    assert batches == [50, 50, 50, 1]
    spill = map_splits(made)
    assert (spill.empty, spill.fingerprint.documents) == (150, 1)


def test_tokens_that_the_vocabulary_does_not_know_are_counted(task: Any, tmp_path: Path) -> None:
    spill = map_splits(task(["bab bad.", "something else bab."]))
    assert (spill.tokens, spill.unknown) == (7, 2)
    assert read_spill(str(tmp_path), "spill-0") == spill
