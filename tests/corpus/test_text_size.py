"""How much text a corpus is expected to hold, before it is read."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.corpus import splits
from pipeline.corpus.readers import ReadOptions, find_splits
from pipeline.corpus.text_size import expected_text_bytes
from workshop.reading import texts


def expected(path: Path, **reading: str) -> int:
    return expected_text_bytes(find_splits([str(path)]), ReadOptions(**reading))  # type: ignore[arg-type]


def test_plain_files_hold_what_they_weigh_in_pieces_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n" * 100)
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n' * 100)
    assert expected(tmp_path) == 1000 + 1600
    monkeypatch.setattr(splits, "piece_bytes", lambda corpus_bytes: 100)
    assert len(find_splits([str(tmp_path)])) > 20
    assert expected(tmp_path) == 1000 + 1600


def test_of_parquet_the_column_counts_that_is_read(tmp_path: Path) -> None:
    rows = [f"row {index} of some words" for index in range(5000)]
    nested = [{"body": row * 3, "other": 1} for row in rows]
    table = pa.table({"id": rows, "sentences": [[row, row] for row in rows], "text": rows, "doc": nested})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000, use_dictionary=False)
    one = sum(map(len, rows))
    for key, times in ((None, 1), ("sentences", 2), ("doc.body", 3), ("text", 1)):
        found = expected(tmp_path, **({} if key is None else {"text_key": key}))
        assert times * one <= found < 1.5 * times * one, key
    assert 7 * one <= expected(tmp_path, text_key="none"), (
        "all of it, where that column is none of the file's"
    )


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_of_compressed_english_it_is_a_good_guess(tmp_path: Path, python_english: Path, suffix: str) -> None:
    data = python_english.read_bytes()
    (tmp_path / f"a.txt{suffix}").write_bytes(COMPRESSORS[suffix](data))
    assert 0.6 * len(data) < expected(tmp_path) < 1.4 * len(data)


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "wikiextractor"])
def test_of_the_shared_corpus_it_is_a_good_guess(shared_data: Path, kind: str) -> None:
    part = sorted((shared_data / "english" / kind).iterdir())[0]
    held = sum(len(text.encode()) for text in texts(part))
    assert 0.9 * held < expected(part) < 1.3 * held


def test_no_file_but_parquets_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    found = find_splits([str(tmp_path)])
    monkeypatch.delattr(storage, "open_read")
    assert expected_text_bytes(found, ReadOptions()) > 0
