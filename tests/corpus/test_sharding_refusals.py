"""What `bertpipe shard` refuses: finished or foreign folders, bad input, wrong options; nothing is touched."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.manifest import Manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.vocab import VocabConfig
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError
from workshop.folders import contents


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
    for size in (4000, 3, 50):  # larger than the corpus allows; than the reserved tokens; than the alphabet
        with pytest.raises(InputError, match=rf"size is {size};.*size is --vocab-size here;.*bertpipe vocab"):
            shard(vocab=None, vocab_size=size, corpus=(str(corpus),))
        assert not (tmp_path / "shards").exists()
    with pytest.raises(InputError, match="does not exist") as refused:
        shard(vocab=None, corpus=(str(tmp_path / "none"),))
    assert "--vocab-size" not in str(refused.value)


def test_how_files_are_named_as_text_decides_nothing_and_what_they_are_read_as_does(
    shard: Callable[..., Manifest], corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shard()
    assert shard(read=ReadOptions(sentences="lines", format="text")) == first
    assert "already" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"corpus.kinds.jsonl: 4 here, None there"):
        shard(read=ReadOptions(sentences="lines", format="jsonl"))


def test_an_output_whose_name_is_no_utf8_is_refused(shard: Callable[..., Manifest], tmp_path: Path) -> None:
    output = os.fsdecode(bytes(tmp_path) + b"/caf\xe9")
    with pytest.raises(InputError, match="is no UTF-8; name another"):
        shard(output=output)
    with pytest.raises(InputError, match="is no UTF-8; name another"):
        VocabConfig(corpus=("a.txt",), output=output)
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": ""}, "output is empty"),
        ({"max_seq_length": 4}, "max_seq_length is 4 tokens"),
        ({"max_seq_length": 32_768}, "max_seq_length is 32768 tokens; it must be 8 to 32767"),
        ({"short_seq_prob": 1.5}, "short_seq_prob is 1.5"),
        ({"validation_fraction": 0.9}, "validation_fraction is 0.9"),
        ({"shards": 0}, "shards is 0"),
        ({"dupe_factor": 0}, "dupe_factor is 0"),
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
