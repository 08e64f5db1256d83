"""What `bertpipe shard` counts and says: labels, their balance and its reasons, unknown text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.inspection import InspectConfig
from pipeline.corpus.inspection import run as inspect
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shards import read_blocks
from pipeline.corpus.verification import verify
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError


def test_labels_balance_and_the_manifest_counts_what_the_tars_hold(
    shard: Callable[..., Manifest], corpus: Path, word_vocabulary: str, tmp_path: Path
) -> None:
    manifest = shard()
    assert abs(manifest.counts["random_share"] - 0.5) < 0.01
    for split in ("train", "validation"):
        blocks = [
            block
            for info in manifest.of_split(split)  # type: ignore[arg-type]
            for block in read_blocks(str(tmp_path / "shards"), info)
        ]
        counts = manifest.counts["splits"][split]
        assert counts["pairs"] == sum(len(block) for block in blocks) == manifest.pairs(split)  # type: ignore[arg-type]
        assert counts["tokens"] == sum(len(block.tokens) for block in blocks)
        assert counts["random_next"] == sum(int(block.random_next.sum()) for block in blocks)
        for block in blocks:
            assert ((block.document_a != block.document_b) == block.random_next).all()
            assert block.lengths.max() <= 61
    assert manifest.vocabulary["hash"] == load_vocabulary(word_vocabulary).hash
    assert load_vocabulary(str(tmp_path / "shards" / "vocab")).hash == manifest.vocabulary["hash"]
    assert str(corpus) not in (tmp_path / "shards" / "manifest.json").read_text()


def test_more_shards_than_documents_allow_are_reduced_and_reported(
    shard: Callable[..., Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = shard(shards=50)
    assert len(manifest.of_split("train")) == 3  # 216 documents to train on, 64 a shard
    assert "50 shards asked for, 3 made" in capsys.readouterr().err


def test_each_document_gives_as_many_sets_of_pairs_as_asked_for(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = shard(output=str(tmp_path / "once"))
    thrice = shard(dupe_factor=3, output=str(tmp_path / "thrice"))
    assert "each document 3 times over" in capsys.readouterr().err
    assert thrice.settings["dupe_factor"] == thrice.counts["dupe_factor"] == 3
    assert thrice.counts["pairs"] == pytest.approx(3 * once.counts["pairs"], rel=0.05)
    assert thrice.counts["documents"] == once.counts["documents"]
    assert thrice.counts["duplicates"] == 0
    assert abs(thrice.counts["random_share"] - 0.5) < 0.01
    assert 0.05 < thrice.counts["short_document_share"] < 0.15
    assert verify(str(tmp_path / "thrice"), thrice) == []
    files = tuple(sorted(map(str, corpus.iterdir()), reverse=True))
    again = shard(dupe_factor=3, output=str(tmp_path / "again"), corpus=files)
    assert again == thrice


def test_documents_that_are_no_utf8_are_counted_by_what_was_done(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.txt").write_bytes(b"bab bad \xff.\nbag.\n\nbab ba\xffd.\nbak.\n")
    both = (str(corpus), str(tmp_path / "bad.txt"))
    counts = {}
    for policy in ("skip", "replace"):
        read = ReadOptions(sentences="lines", invalid_utf8=policy)  # type: ignore[arg-type]
        counts[policy] = shard(corpus=both, read=read, output=str(tmp_path / policy)).counts
        inspect(InspectConfig(folder=str(tmp_path / policy), pairs=0))
    said, shown = capsys.readouterr()
    names = ("documents", "empty", "invalid_skipped", "invalid_replaced")
    assert [counts["skip"][name] for name in names] == [240, 0, 2, 0]
    assert [counts["replace"][name] for name in names] == [242, 0, 0, 2]
    for text in (said, shown):
        assert "2 skipped as no UTF-8" in " ".join(text.split())
        assert "2 with U+FFFD" in " ".join(text.split())


def test_documents_of_one_sentence_are_reported_as_the_reason_for_their_labels(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = [lines[:1] for lines in make_documents(200)]
    manifest = shard(corpus=(write_text(tmp_path / "short.txt", documents),))
    assert manifest.counts["random_share"] == 1.0
    assert "chunk of one sentence" in manifest.counts["balance"]


def test_labels_that_follow_from_lengths_are_reported_though_they_balance(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = [lines[:1] if index % 5 < 3 else lines for index, lines in enumerate(make_documents(600))]
    counts = shard(corpus=(write_text(tmp_path / "a.txt", documents),), short_seq_prob=0.0).counts
    assert abs(counts["random_share"] - 0.5) < 0.01
    assert 0.35 < counts["forced_share"] < 0.49
    assert "labels follow from A's length" in counts["balance"]
    assert shard(output=str(tmp_path / "usual")).counts["balance"] is None


def test_shards_that_cannot_balance_alone_are_the_reason_given(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = [lines[:1] if index % 3 else lines for index, lines in enumerate(make_documents(600))]
    corpus = (write_text(tmp_path / "a.txt", documents),)
    counts = shard(corpus=corpus, short_seq_prob=0.0).counts
    assert counts["random_share"] > 0.51
    assert "more than half in 1 of 4 shards" in counts["balance"]
    fewer = shard(corpus=corpus, short_seq_prob=0.0, shards=1, output=str(tmp_path / "fewer")).counts
    assert abs(fewer["random_share"] - 0.5) < 0.01


@pytest.mark.parametrize(("every", "unknown"), [(40, "little"), (8, "much"), (1, "most")])
def test_text_that_the_vocabulary_does_not_know_is_reported_and_at_last_refused(
    shard: Callable[..., Manifest],
    make_documents: Any,
    write_text: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    every: int,
    unknown: str,
) -> None:
    documents = [
        [" ".join("zzz" if (at + 1) % every == 0 else word for at, word in enumerate(line.split())) for line in lines]
        for lines in make_documents(80)
    ]  # fmt: skip
    corpus = (write_text(tmp_path / "a.txt", documents),)
    if unknown == "most":
        with pytest.raises(InputError, match=r"[0-9.]+% of the text's tokens are \[UNK\].*--vocab"):
            shard(corpus=corpus)
        assert not (tmp_path / "shards").exists()
        return
    share = shard(corpus=corpus).counts["unknown_share"]
    said = capsys.readouterr().err
    assert f"{share:.2%} of tokens unknown" in said
    inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=0))
    shown = capsys.readouterr().out
    for text in (said, shown):
        assert ("fits the text" in " ".join(text.split())) == (unknown == "much") == (share > 0.05)


def test_a_language_without_rules_of_its_own_is_said_where_rules_are_used(
    shard: Callable[..., Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard(language="sw")
    assert "sentence rules" not in capsys.readouterr().err
    shard(language="sw", read=ReadOptions(), output=str(tmp_path / "cut"))
    assert "'sw' has no sentence rules of its own" in capsys.readouterr().err


def test_real_text_balances_and_holds_the_published_forced_share(
    shard: Callable[..., Manifest], shared_data: Path, tmp_path: Path
) -> None:
    vocabulary = tmp_path / "google"
    vocabulary.mkdir()
    words = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    (vocabulary / "vocab.txt").write_bytes(words.read_bytes())
    manifest = shard(
        corpus=(str(shared_data / "english" / "text" / "part-003.txt.gz"),), vocab=str(vocabulary),
        max_seq_length=128, shards=None,
    )  # fmt: skip
    counts = manifest.counts
    assert abs(counts["random_share"] - 0.5) < 0.001
    assert 0.05 < counts["forced_share"] < 0.2
    assert counts["short_document_share"] == pytest.approx(0.1, abs=0.03)
    block = next(read_blocks(str(tmp_path / "shards"), manifest.of_split("train")[0]))
    assert block.tokens.dtype == np.uint16
