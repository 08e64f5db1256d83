"""The stage `bertpipe shard`: the same bytes whatever happens, and each document on one side."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import pieces, shuffling
from pipeline.corpus.census import held_out_count
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.mapper import MapTask, map_splits
from pipeline.corpus.shards import read_blocks
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError
from workshop.folders import contents
from workshop.shard_folders import make_format_1


def documents_of(output: Path, split: Any) -> set[int]:
    manifest = read_manifest(str(output))
    blocks = [block for info in manifest.of_split(split) for block in read_blocks(str(output), info)]
    return {int(value) for block in blocks for value in (*block.document_a, *block.document_b)}


def test_three_workers_write_the_bytes_of_one(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    shard(workers=3)
    assert contents(tmp_path / "shards") == expected
    assert sorted(name for name in expected if name.endswith(".tar")) == [
        "train-00000.tar", "train-00001.tar", "train-00002.tar", "val-00000.tar",
    ]  # fmt: skip


def test_files_of_other_names_in_another_order_give_the_same_bytes(
    shard: Callable[..., Manifest], corpus: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    files = []
    for index in range(4):
        files.append(tmp_path / "renamed" / f"{9 - index}.txt")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes((corpus / f"part-{index}.txt").read_bytes())
    shard(corpus=tuple(map(str, files)))
    assert contents(tmp_path / "shards") == expected


def test_one_file_with_the_same_documents_gives_the_same_tars(
    shard: Callable[..., Manifest], corpus: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    documents = [text for path in corpus.iterdir() for text in path.read_text().split("\n\n")]
    random.Random(1).shuffle(documents)
    (tmp_path / "all.txt").write_text("\n\n".join(document.strip("\n") for document in documents))
    manifest = shard(corpus=(str(tmp_path / "all.txt"),))
    assert manifest.corpus["files"] == 1
    found = contents(tmp_path / "shards")
    del found["manifest.json"]
    assert found == {name: data for name, data in expected.items() if name != "manifest.json"}


@pytest.mark.parametrize("form", ["one text", "one file of lines", "one of articles", "many files"])
def test_the_same_documents_in_one_file_that_is_cut_or_in_many_that_are_gathered_give_the_same_tars(
    shard: Callable[..., Manifest],
    corpus: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    documents = [text.strip() for path in sorted(corpus.iterdir()) for text in path.read_text().split("\n\n")]
    files = {
        "one text": {"all.txt": "\n\n".join(documents)},
        "one file of lines": {"all.jsonl": "\n".join(json.dumps({"text": each}) for each in documents)},
        "one of articles": {
            "wiki_00": "".join(f'<doc id="1" title="T">\nT\n\n{each}\n</doc>\n' for each in documents)
        },
        "many files": {f"{index}.txt": each for index, each in enumerate(documents)},
    }
    (tmp_path / "corpus").mkdir()
    for name, text in files[form].items():
        (tmp_path / "corpus" / name).write_text(text)
    monkeypatch.setattr(pieces, "_LEAST_BYTES", 100_000 if form == "many files" else 10_000)
    mapped: list[MapTask] = []
    monkeypatch.setattr(shuffling, "map_splits", lambda task: mapped.append(task) or map_splits(task))  # type: ignore[func-returns-value]
    shard(corpus=(str(tmp_path / "corpus"),))
    assert 15 < len(mapped) < 60
    assert max(len(task.splits) for task in mapped) == (6 if form == "many files" else 1)
    found = contents(tmp_path / "shards")
    assert {name: data for name, data in found.items() if name != "manifest.json"} == {
        name: data for name, data in expected.items() if name != "manifest.json"
    }


def test_shards_of_format_1_are_there_already(
    shard: Callable[..., Manifest], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = shard()
    make_format_1(tmp_path / "shards")
    before = contents(tmp_path / "shards")
    assert shard().hash == made.hash
    assert "holds these shards already" in capsys.readouterr().err
    assert contents(tmp_path / "shards") == before


def test_another_seed_gives_other_tars(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    shard(seed=2)
    found = contents(tmp_path / "shards")
    assert found.keys() == expected.keys()
    assert all(found[name] != expected[name] for name in expected if name.endswith(".tar"))


def test_equal_documents_of_several_files_stay_once_and_content_decides_which(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = make_documents(80)
    # The same text with other line ends: one document by its hash, with other sentences.
    rejoined = [[" ".join(lines)] for lines in documents[:30]]
    tars = []
    for name, order in (("first", (documents, rejoined)), ("second", (rejoined, documents))):
        for index, part in enumerate(order):
            write_text(tmp_path / name / f"{index}.txt", part)
        write_text(tmp_path / name / "again.txt", documents[:10])
        manifest = shard(corpus=(str(tmp_path / name),), output=str(tmp_path / f"{name}-shards"))
        assert manifest.counts["documents"] == 80
        assert manifest.counts["duplicates"] == 40
        tars.append([info.hash for info in manifest.shards])
    assert tars[0] == tars[1]


def test_held_out_documents_are_in_no_training_pair(shard: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest = shard(validation_fraction=0.3)
    training = documents_of(tmp_path / "shards", "train")
    held_out = documents_of(tmp_path / "shards", "validation")
    assert len(held_out) == 72 == manifest.counts["splits"]["validation"]["documents"]
    assert len(training) == 168
    assert not training & held_out


@pytest.mark.parametrize(
    ("documents", "fraction", "held_out"),
    [
        (1_000_000, 0.01, 10_000),
        (5_000, 0.01, 64),  # topped up to what negatives need
        (240, 0.01, 24),  # but no further than a tenth
        (240, 0.5, 120),
        (19, 0.01, 0),  # one document alone has no other to draw from
        (3, 0.5, 0),
        (240, 0.0, 0),
    ],
)
def test_so_many_documents_are_held_out(documents: int, fraction: float, held_out: int) -> None:
    assert held_out_count(documents, fraction) == held_out


def test_without_a_vocabulary_one_is_trained_on_the_same_corpus(
    shard: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = shard(vocab=None, vocab_size=240)
    assert manifest.vocabulary["size"] == 240
    assert load_vocabulary(str(tmp_path / "shards" / "vocab")).hash == manifest.vocabulary["hash"]
    assert shard(vocab=None, vocab_size=240) == manifest
    with pytest.raises(InputError, match=r"trained_vocabulary.size: 241 here, 240 there"):
        shard(vocab=None, vocab_size=241)
