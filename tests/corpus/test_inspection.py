"""The stage `bertpipe inspect`: what it shows, what it refuses, and what verification finds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.inspection import InspectConfig, run
from pipeline.corpus.manifest import read_manifest, write_manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.corpus.shards import Block, read_blocks, write_shard
from pipeline.corpus.verification import verify
from pipeline.errors import InputError, RunFailed
from workshop.shard_folders import make_format_1


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, make_documents: Any, write_text: Any, word_vocabulary: str
) -> Path:
    folder = tmp_path_factory.mktemp("inspection")
    corpus = write_text(folder / "corpus.txt", make_documents(300))
    shard(
        ShardConfig(
            corpus=(corpus,),
            output=str(folder / "shards"),
            vocab=word_vocabulary,
            max_seq_length=64,
            shards=2,
            workers=1,
            read=ReadOptions(sentences="lines"),
        )
    )
    return folder / "shards"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(made, tmp_path / "shards"))


def test_a_person_sees_settings_lineage_balance_lengths_and_pairs(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(InspectConfig(folder=str(made), pairs=4))
    out = capsys.readouterr().out
    manifest = read_manifest(str(made))
    for wanted in (
        "max_seq_length 64",
        manifest.vocabulary["hash"],
        manifest.corpus["fingerprint"],
        "300 documents",
        "random next (1)",
        "actual next (0)",
        "57–60",
        "█",
        "fill ",
    ):
        assert wanted in out
    assert [pair["random_next"] for pair in report["pairs"]].count(True) == 2
    bins = report["lengths"]["bins"]
    assert sum(each["pairs"] for each in bins) == report["lengths"]["pairs"] == manifest.counts["pairs"]
    assert (bins[0]["from"], bins[-1]["to"]) == (1, 64)
    split = report["splits"]["train"]
    assert split["fill"] == pytest.approx(split["mean_length"] / 64)


def test_the_histogram_counts_every_length_once(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(InspectConfig(folder=str(made), pairs=0))
    manifest = read_manifest(str(made))
    blocks = [block for info in manifest.shards for block in read_blocks(str(made), info)]
    lengths = np.concatenate([block.lengths for block in blocks]) + 3
    for each in report["lengths"]["bins"]:
        assert each["pairs"] == ((lengths >= each["from"]) & (lengths <= each["to"])).sum()


def test_pairs_in_words_are_the_blocks_tokens(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(InspectConfig(folder=str(made), pairs=6, seed=3))
    manifest = read_manifest(str(made))
    tokens = (made / "vocab" / "vocab.txt").read_text().split("\n")
    for pair in report["pairs"]:
        info = next(info for info in manifest.shards if info.name == pair["shard"])
        block = list(read_blocks(str(made), info))[pair["block"]]
        start, cut = block.offsets[pair["row"]], block.a_lengths[pair["row"]]
        words = [tokens[token] for token in block.tokens[start : start + cut]]
        assert pair["a"].replace(" .", ".").replace(".", "") == " ".join(words).replace(" .", "")
        assert (pair["document_a"] != pair["document_b"]) == pair["random_next"]


def test_shards_of_one_label_show_as_many_pairs_as_asked_for(shards: Path) -> None:
    manifest = read_manifest(str(shards))
    first = next(read_blocks(str(shards), manifest.shards[0]))
    for label in (True, False):
        alone = replace(first, random_next=np.full(len(first), label))
        infos = [write_shard(str(shards), info.name, info.split, alone) for info in manifest.shards]
        write_manifest(str(shards), replace(manifest, shards=ShardTable.of(infos)))
        for wanted in (1, 5):
            shown = run(InspectConfig(folder=str(shards), pairs=wanted))["pairs"]
            assert [pair["random_next"] for pair in shown] == [label] * wanted


def test_of_a_few_pairs_all_are_shown(shards: Path) -> None:
    manifest = read_manifest(str(shards))
    few = next(read_blocks(str(shards), manifest.shards[0])).take(slice(0, 5))
    info = write_shard(str(shards), "train-00000.tar", "train", few)
    write_manifest(str(shards), replace(manifest, shards=ShardTable.of([info])))
    shown = run(InspectConfig(folder=str(shards), pairs=9))["pairs"]
    assert sorted(pair["row"] for pair in shown) == [0, 1, 2, 3, 4]


def test_json_is_one_object_and_nothing_else(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(InspectConfig(folder=str(made), json=True, verify=True))
    stated = json.loads(capsys.readouterr().out)
    assert stated["hash"] == report["hash"] == read_manifest(str(made)).hash
    assert stated["verified"] == {"shards": 3, "problems": []}
    assert set(stated["splits"]) == {"train", "validation"}
    assert "train-00000.tar" not in json.dumps({**stated, "pairs": []}), "a million tars are no report"


def test_a_folder_of_format_1_is_the_same_to_look_at(made: Path, shards: Path) -> None:
    reports = []
    make_format_1(shards)
    for folder in (made, shards):
        reports.append(run(InspectConfig(folder=str(folder), verify=True)))
    older = {"folder": str(shards), "format_version": 1}
    assert reports[1] == reports[0] | older


def test_another_vocabulary_is_refused_and_a_missing_one_shows_no_words(
    shards: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    lines = (shards / "vocab" / "vocab.txt").read_text().rstrip("\n").split("\n")
    (other / "vocab.txt").write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n")
    with pytest.raises(InputError, match="another vocabulary") as refused:
        run(InspectConfig(folder=str(shards), vocab=str(other)))
    assert read_manifest(str(shards)).vocabulary["hash"] in str(refused.value)
    shutil.move(shards / "vocab", tmp_path / "moved")
    assert run(InspectConfig(folder=str(shards)))["pairs"] == []
    assert "--vocab" in capsys.readouterr().out
    run(InspectConfig(folder=str(shards), pairs=0))
    assert "--vocab" not in capsys.readouterr().out, "none were asked for"
    assert len(run(InspectConfig(folder=str(shards), vocab=str(tmp_path / "moved")))["pairs"]) == 4


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        run(InspectConfig(folder=str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        run(InspectConfig(folder=str(tmp_path)))


def test_sound_shards_pass_verification(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(InspectConfig(folder=str(made), verify=True))
    assert "no problem" in capsys.readouterr().out


def test_verification_finds_a_flipped_bit_and_ends_as_failed(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shards / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[5000] ^= 4
    path.write_bytes(data)
    with pytest.raises(RunFailed, match="2 problems"):
        run(InspectConfig(folder=str(shards), verify=True))
    out = capsys.readouterr().out
    assert "train-00001.tar has the hash" in out
    assert "train-00001.tar at byte 0 (block 0)" in out


def test_verification_finds_missing_strange_and_miscounted_shards(shards: Path) -> None:
    (shards / "val-00000.tar").rename(shards / "train-00007.tar")
    manifest = read_manifest(str(shards))
    manifest.counts["pairs"] += 1
    problems = "\n".join(verify(str(shards), manifest))
    assert "val-00000.tar cannot be read" in problems
    assert "train-00007.tar is not in the manifest" in problems
    assert f"the manifest counts {manifest.counts['pairs']} pairs" in problems


def test_an_empty_result_is_no_pass(shards: Path) -> None:
    manifest = replace(read_manifest(str(shards)), shards=ShardTable.of([]))
    assert any("names no pairs" in problem for problem in verify(str(shards), manifest))


Change = Callable[[Block], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda block: {"tokens": block.tokens + np.uint16(100)}, "beyond the vocabulary's 107 tokens"),
        (lambda block: {"document_b": block.document_a}, "random-next within one document"),
        (lambda block: {"random_next": ~block.random_next}, "actual-next of two documents"),
        (lambda block: {"a_lengths": block.a_lengths * 0}, "have an empty segment A"),
        (lambda block: {"a_lengths": block.lengths.astype(np.uint16)}, "have an empty segment B"),
        (lambda block: {"offsets": block.offsets * 1, "tokens": block.tokens}, None),
    ],
)
def test_verification_holds_each_pair_to_the_laws(shards: Path, change: Change, problem: str | None) -> None:
    """A shard whose hashes are right and whose content is not."""
    manifest = read_manifest(str(shards))
    first = next(read_blocks(str(shards), manifest.shards[0])).take(slice(0, 600))
    info = write_shard(str(shards), "train-00000.tar", "train", replace(first, **change(first)))
    counts = manifest.counts | {
        name: sum(getattr(each, name) for each in (info, *manifest.shards[1:]))
        for name in ("pairs", "tokens", "random_next")
    }
    write_manifest(
        str(shards), replace(manifest, shards=ShardTable.of([info, *manifest.shards[1:]]), counts=counts)
    )
    problems = verify(str(shards), read_manifest(str(shards)))
    assert len(problems) == (0 if problem is None else len(problems) or 1)
    assert problem is None or any(problem in line for line in problems)


def test_verification_finds_a_document_on_both_sides_and_pairs_too_long(shards: Path) -> None:
    manifest = read_manifest(str(shards))
    held_out = next(read_blocks(str(shards), manifest.of_split("validation")[0]))
    info = write_shard(str(shards), "train-00000.tar", "train", held_out)
    settings = manifest.settings | {"max_seq_length": 32}
    changed = replace(manifest, shards=ShardTable.of([info, *manifest.shards[1:]]), settings=settings)
    problems = "\n".join(verify(str(shards), changed))
    assert "are in training and in held-out shards" in problems
    assert "are longer than 29 tokens" in problems
