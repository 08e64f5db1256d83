"""Documents added to finished shards: new tars, the old ones untouched, nothing twice, and no state in between."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import storage
from pipeline.corpus import appending
from pipeline.corpus.document_list import KnownDocuments, documents_of
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.verification import verify
from pipeline.errors import InputError
from workshop.folders import contents

LINES = ReadOptions(sentences="lines")


@pytest.fixture
def more(tmp_path: Path, make_documents: Any, write_text: Any) -> str:
    """A corpus of 80 documents, 20 of which are in the folder that `shard` makes, and 5 twice."""
    new = make_documents(60, seed=70)
    write_text(tmp_path / "more" / "a.txt", new[:40] + make_documents(60, seed=2)[:20])
    write_text(tmp_path / "more" / "b.txt", new[40:] + new[:5])
    return str(tmp_path / "more")


@pytest.fixture
def append(tmp_path: Path) -> Callable[..., Manifest]:
    """Add a corpus to tmp_path / "shards"."""

    def add(corpus: str, **changed: Any) -> Manifest:
        config: dict[str, Any] = {
            "corpus": (corpus,),
            "output": str(tmp_path / "shards"),
            "max_seq_length": 64,
            "workers": 1,
            "read": LINES,
        }
        return appending.run(ShardConfig(**(config | changed)))

    return add


def test_new_documents_come_as_new_tars_and_old_bytes_stay(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], more: str, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    before = shard()
    old = contents(folder)
    after = append(more)
    assert after == read_manifest(str(folder))
    now = contents(folder)
    assert {name for name in old if now.get(name) != old[name]} == {
        "manifest.json", "index.arrow", "documents.bin"
    }  # fmt: skip
    assert set(now) - set(old) == {"train-00003.tar", "val-00001.tar", "index-1.arrow", "documents-1.bin"}
    assert after.counts["documents"] == before.counts["documents"] + 60
    assert after.counts["duplicates"] == before.counts["duplicates"] + 25
    assert after.corpus["documents"] == before.corpus["documents"] + 85
    assert [part["counts"]["documents"] for part in after.parts or []] == [240, 60]
    assert after.hash != before.hash
    assert verify(str(folder), after) == []


def test_no_document_is_in_old_and_new_tars_or_on_both_sides(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], more: str, tmp_path: Path
) -> None:
    folder = str(tmp_path / "shards")
    shard()
    after = append(more)
    tars = [documents_of(folder, after.shards[row : row + 1]) for row in range(len(after.shards))]
    everything = np.concatenate(tars)
    assert len(np.unique(everything)) == len(everything) == 300
    assert after.documents is not None
    listed = KnownDocuments(os.path.join(folder, after.documents["file"])).hashes
    assert listed.tolist() == np.sort(everything).tolist()


def test_what_is_added_does_not_depend_on_workers_files_or_restarts(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], more: str, tmp_path: Path
) -> None:
    shard()
    shutil.copytree(tmp_path / "shards", tmp_path / "other")
    first = append(more)
    text = "\n".join((tmp_path / "more" / name).read_text() for name in ("b.txt", "a.txt"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "all.txt").write_text(text)
    second = append(str(tmp_path / "one"), output=str(tmp_path / "other"), workers=2)
    assert [shard.hash for shard in first.shards] == [shard.hash for shard in second.shards]


def test_added_again_nothing_changes(
    shard: Callable[..., Manifest],
    append: Callable[..., Manifest],
    more: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard()
    after = append(more)
    whole = contents(tmp_path / "shards")
    for again, shards in ((more, None), (str(corpus), 3)):
        assert append(again, shards=shards) == after
        assert "holds these documents already" in capsys.readouterr().err
    (tmp_path / "fewer").mkdir()
    shutil.copy(tmp_path / "more" / "b.txt", tmp_path / "fewer")
    assert append(str(tmp_path / "fewer")) == after
    assert "holds all these documents already" in capsys.readouterr().err
    assert shard() == after, "the command that began the folder is still its own"
    assert contents(tmp_path / "shards") == whole


def test_several_additions_follow_one_another(
    shard: Callable[..., Manifest],
    append: Callable[..., Manifest],
    more: str,
    make_documents: Any,
    write_text: Any,
    tmp_path: Path,
) -> None:
    shard()
    append(more)
    write_text(tmp_path / "third" / "c.txt", make_documents(90, seed=90))
    after = append(str(tmp_path / "third"), shards=1)
    assert [part["counts"]["documents"] for part in after.parts or []] == [240, 60, 90]
    names = list(after.shards.names())
    assert names[-1].startswith("val-")
    assert names[:4] == [f"train-{number:05d}.tar" for number in range(4)]
    assert len(names) == len(set(names))
    assert verify(str(tmp_path / "shards"), after) == []
    assert not [
        name for name in os.listdir(tmp_path / "shards") if name in ("index-1.arrow", "documents-1.bin")
    ]


def test_a_folder_without_a_list_of_documents_is_read_for_it(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], more: str, tmp_path: Path
) -> None:
    shard()
    path = tmp_path / "shards" / "manifest.json"
    manifest = storage.read_json(str(path))
    del manifest["documents"]
    storage.write_json(str(path), manifest)
    (tmp_path / "shards" / "documents.bin").unlink()
    assert append(more).counts["documents"] == 300


def test_killed_at_any_write_the_folder_is_the_old_one_or_the_new(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], more: str, tmp_path: Path
) -> None:
    before = shard()
    shutil.copytree(tmp_path / "shards", tmp_path / "copy")
    after = append(more, output=str(tmp_path / "copy"))
    whole = storage.write_whole
    deaths = 0
    for write in range(1, 60):
        child = os.fork()
        if child == 0:
            writes = 0

            def write_whole(path: str, fill: Callable[[Any], None]) -> None:
                nonlocal writes
                writes += 1
                if writes == write:  # noqa: B023 - this process ends within the loop's step
                    os.kill(os.getpid(), signal.SIGKILL)
                whole(path, fill)

            storage.write_whole = write_whole
            try:
                append(more)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        found = read_manifest(str(tmp_path / "shards"))
        if os.waitstatus_to_exitcode(status) == 0:
            break
        deaths += 1
        assert found == before
        strays = {f"{name} is not in the manifest" for name in ("train-00003.tar", "val-00001.tar")}
        assert set(verify(str(tmp_path / "shards"), found)) <= strays
    assert deaths >= 2, "each run gets further than the one before, and ends when it writes less than that"
    assert append(more) == found == after
    assert contents(tmp_path / "shards") == contents(tmp_path / "copy")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_seq_length": 32}, r"max_seq_length: 32 here, 64 there\); give the same options"),
        ({"seed": 5}, r"seed: 5 here, 1 there"),
        ({"output": "nowhere"}, r"does not exist"),
    ],
)
def test_what_does_not_fit_the_folder_is_refused_and_nothing_is_touched(
    shard: Callable[..., Manifest],
    append: Callable[..., Manifest],
    more: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shard()
    old = contents(tmp_path / "shards")
    with pytest.raises(InputError, match=said):
        append(more, **changed)
    assert contents(tmp_path / "shards") == old


def test_one_new_document_is_too_few_and_another_vocabulary_is_refused(
    shard: Callable[..., Manifest], append: Callable[..., Manifest], tmp_path: Path
) -> None:
    shard()
    old = contents(tmp_path / "shards")
    (tmp_path / "single.txt").write_text("bab bad. bag bak.\n")
    with pytest.raises(InputError, match="holds 1 distinct documents"):
        append(str(tmp_path / "single.txt"))
    shutil.copytree(tmp_path / "shards" / "vocab", tmp_path / "vocab")
    (tmp_path / "vocab" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="leave --vocab out"):
        append(str(tmp_path / "single.txt"), vocab=str(tmp_path / "vocab"), cased=True)
    assert contents(tmp_path / "shards") == old
