"""The stage `bertpipe shard`: same bytes whatever happens, nothing half-made, nothing made otherwise."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import storage
from pipeline.corpus.census import held_out_count
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.inspection import InspectConfig
from pipeline.corpus.inspection import run as inspect
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sharding import ShardConfig, run
from pipeline.corpus.shards import Manifest, read_blocks, read_manifest
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.corpus.work_folder import WorkFolder
from pipeline.errors import InputError, RunFailed

ROOT = Path(__file__).resolve().parents[2]
LINES = ReadOptions(sentences="lines")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_documents: Any, write_text: Any) -> Path:
    """Four files of 60 documents."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(4):
        write_text(folder / f"part-{index}.txt", make_documents(60, seed=index))
    return folder


@pytest.fixture
def shard(corpus: Path, word_vocabulary: str, tmp_path: Path) -> Callable[..., Manifest]:
    """Run the stage on the corpus into tmp_path / "shards", in this process, unless told otherwise."""

    def make(**changed: Any) -> Manifest:
        config: dict[str, Any] = {
            "corpus": (str(corpus),),
            "output": str(tmp_path / "shards"),
            "vocab": word_vocabulary,
            "max_seq_length": 64,
            "shards": 3,
            "workers": 1,
            "read": LINES,
        }
        return run(ShardConfig(**(config | changed)))

    return make


@pytest.fixture(scope="module")
def expected(
    corpus: Path, word_vocabulary: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files that `shard()` makes."""
    output = tmp_path_factory.mktemp("expected") / "shards"
    settings: dict[str, Any] = {"max_seq_length": 64, "shards": 3, "workers": 1, "read": LINES}
    run(ShardConfig(corpus=(str(corpus),), output=str(output), vocab=word_vocabulary, **settings))
    return contents(output)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


def test_a_finished_folder_is_returned_as_it_is(
    shard: Callable[..., Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shard()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*")}
    assert shard(workers=2) == first
    assert "already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*")} == times


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "train-00001.tar").unlink(), r"train-00001\.tar is missing"),
        (lambda folder: os.truncate(folder / "val-00000.tar", 512), r"val-00000\.tar has 512 bytes"),
        (lambda folder: (folder / "vocab" / "vocab.txt").unlink(), r"vocabulary is gone .* no vocab\.txt"),
        (lambda folder: shutil.rmtree(folder / "vocab"), r"vocabulary is gone .* does not exist"),
        (lambda folder: swap_words(folder / "vocab"), r"vocab has the hash [0-9a-f]+, its manifest says"),
    ],
)
def test_finished_shards_that_lost_something_are_not_taken_for_whole(
    shard: Callable[..., Manifest], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    shard()
    damage(tmp_path / "shards")
    before = contents(tmp_path / "shards")
    with pytest.raises(InputError, match=f"{message}.*delete .* and run again") as refused:
        shard()
    assert "\n" not in str(refused.value)
    assert contents(tmp_path / "shards") == before


def swap_words(vocabulary: Path) -> None:
    words = (vocabulary / "vocab.txt").read_text().split("\n")
    (vocabulary / "vocab.txt").write_text("\n".join([*words[:-3], words[-2], words[-3], ""]))
    (vocabulary / "tokenizer.json").unlink()


def test_a_folder_made_otherwise_is_refused_with_the_difference_and_not_touched(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path
) -> None:
    shard()
    before = contents(tmp_path / "shards")
    (tmp_path / "other").mkdir()
    other_vocabulary = load_vocabulary(str(tmp_path / "shards" / "vocab"))
    words = "".join(f"{token}\n" for token in (*other_vocabulary.tokens, "zz"))
    (tmp_path / "other" / "vocab.txt").write_text(words)
    more = tmp_path / "more.txt"
    more.write_text("a document more.\n")
    for changed, difference in (
        ({"max_seq_length": 128}, "settings.max_seq_length: 128 here, 64 there"),
        ({"seed": 7}, "settings.seed: 7 here, 1 there"),
        ({"vocab": str(tmp_path / "other")}, "vocabulary.size: 108 here, 107 there"),
        ({"corpus": (str(corpus), str(more))}, "corpus.files: 5 here, 4 there"),
    ):
        with pytest.raises(InputError) as refused:
            shard(**changed)
        assert difference in str(refused.value)
        assert "\n" not in str(refused.value)
    assert contents(tmp_path / "shards") == before


def in_a_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; returns how it ended: 0, 1 after an exception, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except RunFailed:
            os._exit(3)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_killed_at_any_write_the_same_command_continues_to_the_same_bytes(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """`kill -9` before, in the middle of and after each of the files that the stage writes."""
    output = tmp_path / "shards"
    whole = storage.write_whole
    deaths = 0

    def killed_at(write: int, moment: str) -> Callable[[], object]:
        def work() -> object:
            writes = 0

            def write_whole(path: str, fill: Callable[[Any], None]) -> None:
                nonlocal writes
                writes += 1

                def fill_and_die(stream: Any) -> None:
                    fill(stream)
                    stream.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

                if writes == write and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                whole(path, fill_and_die if writes == write and moment == "inside" else fill)
                if writes == write:
                    os.kill(os.getpid(), signal.SIGKILL)

            storage.write_whole = write_whole  # this is the forked child, which ends here
            return shard()

        return work

    # Each run gets a little further than the one before, so every file is the last one some time.
    for write, moment in list(product((1, 2, 3), ("before", "inside", "after"))) * 10:
        ended = in_a_child(killed_at(write, moment))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        deaths += 1
    else:
        pytest.fail("the stage makes no headway")
    assert deaths > 10
    assert contents(output) == expected


def test_killed_with_its_workers_at_work_the_same_command_continues_to_the_same_bytes(
    shard: Callable[..., Manifest],
    expected: dict[str, bytes],
    corpus: Path,
    word_vocabulary: str,
    tmp_path: Path,
) -> None:
    output = tmp_path / "shards"
    for mark, number in (("spill-*.arrow", signal.SIGKILL), ("train-*.json", signal.SIGINT)):
        script = tmp_path / "shard.py"
        script.write_text(
            "from pipeline.corpus.readers import ReadOptions\n"
            "from pipeline.corpus.sharding import ShardConfig, run\n"
            "if __name__ == '__main__':\n"
            f"    run(ShardConfig(corpus=({str(corpus)!r},), output={str(output)!r}, vocab={word_vocabulary!r},\n"
            "        max_seq_length=64, shards=3, workers=2, read=ReadOptions(sentences='lines')))\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(script)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and not list((output / ".work").glob(mark)):
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode == -number or process.returncode in (0, 130)
        deadline = time.monotonic() + 10
        while _session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _session(process.pid), "workers outlive the command"
    shard()
    assert contents(output) == expected


def _session(leader: int) -> list[int]:
    """Living processes of the session that `leader` began."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_full_disk_is_one_line_and_a_rerun_continues(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    import resource

    def with_little_room() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, 45_000))  # spills pass, tars don't
        return shard()

    assert in_a_child(with_little_room) == 3
    assert (tmp_path / "shards" / ".work").is_dir()
    assert not list((tmp_path / "shards").rglob("*.tmp"))
    shard()
    assert contents(tmp_path / "shards") == expected


def interrupted(shard: Callable[..., Manifest], **changed: Any) -> None:
    """Leave an unfinished folder: killed when all that is missing is the manifest."""

    def work() -> object:
        storage_write = storage.write_whole

        def write_whole(path: str, fill: Callable[[Any], None]) -> None:
            if path.endswith("manifest.json"):
                os.kill(os.getpid(), signal.SIGKILL)
            storage_write(path, fill)

        storage.write_whole = write_whole
        return shard(**changed)

    assert in_a_child(work) == -signal.SIGKILL


def test_an_unfinished_folder_refuses_other_settings_and_takes_changed_files_anew(
    shard: Callable[..., Manifest], corpus: Path, make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    for path in corpus.iterdir():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    copy = (str(tmp_path / "copy"),)
    interrupted(shard, corpus=copy)
    with pytest.raises(InputError, match=r"unfinished.*max_seq_length: 32 here, 64 there"):
        shard(corpus=copy, max_seq_length=32)
    write_text(tmp_path / "copy" / "part-1.txt", make_documents(60, seed=77))
    continued = shard(corpus=copy)
    fresh = shard(corpus=copy, output=str(tmp_path / "fresh"))
    assert continued == fresh


def test_a_spill_cut_short_is_made_anew(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    interrupted(shard)
    spill = next((tmp_path / "shards" / ".work").glob("*.arrow"))
    spill.write_bytes(spill.read_bytes()[:1000])
    shard()
    assert contents(tmp_path / "shards") == expected


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["only one. document.\n"], "1 distinct documents"),
        (["same.\n\nsame.\n", "  same. \n"], r"1 distinct documents with text \(2 repetitions"),
        (["", "\n\n"], "0 distinct documents"),
        (["good.\n", "also good.\n", b"good.\n\nb\xff\xfe\n"], "line 3 is no UTF-8"),
    ],
)
def test_bad_input_leaves_the_folder_as_it_was_found(
    shard: Callable[..., Manifest], tmp_path: Path, texts: list[Any], message: str, existing: bool
) -> None:
    for index, text in enumerate(texts):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{index}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    output = tmp_path / "deep" / "down"
    if existing:
        output.mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        shard(corpus=(str(tmp_path / "bad"),), output=str(output))
    assert output.exists() == existing
    assert (tmp_path / "deep").exists() == existing
    assert not existing or not list(output.iterdir())


def test_bad_input_without_a_vocabulary_leaves_nothing_either(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="size is 4000"):
        shard(vocab=None, vocab_size=4000, corpus=(str(corpus),))
    assert not (tmp_path / "shards").exists()


def test_a_folder_of_other_things_is_refused_and_not_touched(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        shard()
    assert contents(tmp_path / "shards") == {"thesis.txt": b"precious"}
    with pytest.raises(InputError, match="is a file"):
        shard(output=str(tmp_path / "shards" / "thesis.txt"))
    for spec in (corpus, corpus / "**" / "*.txt"):
        with pytest.raises(InputError, match="inside the corpus"):
            shard(corpus=(str(spec),), output=str(corpus / "shards"))
    assert not (corpus / "shards").exists()


def test_two_commands_never_write_one_folder(shard: Callable[..., Manifest], tmp_path: Path) -> None:
    with (
        WorkFolder(str(tmp_path / "shards")),
        pytest.raises(RunFailed, match=f"another bertpipe shard \\(process {os.getpid()}\\)"),
    ):
        shard()
    shard()  # the first one has let go


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": ""}, "output is empty"),
        ({"max_seq_length": 4}, "max_seq_length is 4 tokens"),
        ({"max_seq_length": 32_768}, "max_seq_length is 32768 tokens; it must be 8 to 32767"),
        ({"short_seq_prob": 1.5}, "short_seq_prob is 1.5"),
        ({"validation_fraction": 0.9}, "validation_fraction is 0.9"),
        ({"shards": 0}, "shards is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"language": "english"}, "language 'english'"),
        ({"output": "s3://bucket/shards"}, "local folder"),
        ({"corpus": ("missing.txt",)}, "missing.txt does not exist"),
        ({"vocab": "missing"}, "missing does not exist"),
    ],
)
def test_wrong_options_are_refused_by_name_before_anything_is_written(
    shard: Callable[..., Manifest], tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        shard(**changed)
    assert not list(tmp_path.iterdir())


def test_more_shards_than_documents_allow_are_reduced_and_reported(
    shard: Callable[..., Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = shard(shards=50)
    assert len(manifest.of_split("train")) == 3  # 216 documents to train on, 64 a shard
    assert "50 shards asked for, 3 made" in capsys.readouterr().err


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


def test_without_a_vocabulary_one_is_trained_on_the_same_corpus(
    shard: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = shard(vocab=None, vocab_size=240)
    assert manifest.vocabulary["size"] == 240
    assert load_vocabulary(str(tmp_path / "shards" / "vocab")).hash == manifest.vocabulary["hash"]
    assert shard(vocab=None, vocab_size=240) == manifest
    with pytest.raises(InputError, match=r"trained_vocabulary.size: 241 here, 240 there"):
        shard(vocab=None, vocab_size=241)


def test_a_worker_that_dies_is_one_line_with_the_remedy() -> None:
    began = time.monotonic()
    with pytest.raises(RunFailed, match="run the same command again"), open_executor(2) as executor:
        list(run_tasks(executor, os._exit, [9, 9, 9], workers=2))
    assert time.monotonic() - began < 30


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
