"""`bertpipe shard` and `bertpipe vocab` with filters: what was redacted is nowhere, documents are what is left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.corpus import making, vocab
from pipeline.corpus.filters import FilterOptions
from pipeline.corpus.inspection import InspectConfig
from pipeline.corpus.inspection import run as inspect
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shards import read_blocks
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError

# No word of `make_documents` has one of these letters.
SECRETS = ("xqzv", "vxqyz", "415", "2671", "4111", "777888", "xyqx")
PRIVATE = "xqzv@vxqyz.com called 415-555-2671 of 4111 1111 1111 1111, mrn 777888, for xyqx."
REDACTIONS = ("email", "phone", "id-number", r"mrn=\bmrn \d+", "name=(?i)xyqx")


def options(*filters: str, redact: tuple[str, ...] = (), sentences: Any = "lines") -> ReadOptions:
    return ReadOptions(sentences=sentences, filters=FilterOptions(filters=filters, redactions=redact))


@pytest.fixture
def private(make_documents: Any, write_text: Any, tmp_path: Path) -> str:
    """80 documents with a private sentence each, every other time one that markup takes apart."""
    documents = make_documents(80)
    for index, sentences in enumerate(documents):
        said = PRIVATE.replace("@", "<b>@</b>").replace("415-", "&#52;15-") if index % 2 else PRIVATE
        sentences.insert(index % (len(sentences) + 1), said)
    return write_text(tmp_path / "private.txt", documents)


def assert_nothing_private(folder: Path) -> None:
    """No byte of any file, and no token's word, is of what was redacted."""
    words = load_vocabulary(str(folder / "vocab")).tokens
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            if path.suffix == ".arrow" and ".work" in path.parts:
                with pa.memory_map(str(path)) as file:
                    tokens = pa.ipc.open_file(file).get_batch(0).column("tokens").values.to_numpy()
                content += text_of(tokens, words)
            if path.suffix == ".tar":
                (info,) = (each for each in read_manifest(str(folder)).shards if each.name == path.name)
                for block in read_blocks(str(folder), info):
                    content += text_of(block.tokens, words)
            found += [(path.name, secret) for secret in SECRETS if secret.encode() in content]
    assert found == []


def text_of(tokens: np.ndarray[Any, Any], words: tuple[str, ...]) -> bytes:
    return "".join(words[token].removeprefix("##") for token in tokens.tolist()).encode()


def test_what_is_redacted_is_in_no_byte_of_the_folder_finished_or_not(
    shard: Callable[..., Manifest],
    private: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read = options("markup", "urls", "length=200", redact=REDACTIONS)
    given: dict[str, Any] = {"corpus": (private,), "vocab": None, "vocab_size": 250, "read": read}

    def killed(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(making, "_reduce", killed)
    with pytest.raises(MemoryError):
        shard(**given)
    assert any((tmp_path / "shards" / ".work").glob("*.arrow"))
    assert_nothing_private(tmp_path / "shards")
    monkeypatch.undo()
    counts = shard(**given).counts["filters"]
    assert_nothing_private(tmp_path / "shards")
    assert counts["email"]["matches"] == counts["phone"]["matches"] == counts["mrn"]["documents"] == 80
    assert counts["markup"]["documents"] == 40
    inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=50))
    said = "".join(capsys.readouterr()).lower()
    assert [secret for secret in SECRETS if secret in said] == []
    assert "[email] called [phone] of [id-number], [mrn], for [name]" in " ".join(said.split())


def test_a_document_is_what_filters_leave_of_it_and_the_corpus_what_was_read(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = make_documents(70)
    twice = [[*lines, f"bab@bad{n}.org."] for lines in documents for n in (1, 2)]
    corpus = (write_text(tmp_path / "twice.txt", [*twice, ["bab."], ["http://bad.org/bag"]]),)
    plain = shard(corpus=corpus, output=str(tmp_path / "plain"))
    manifest = shard(corpus=corpus, read=options("urls", "length=6", redact=("email",)))
    assert manifest.corpus == plain.corpus
    counts, filters = manifest.counts, manifest.counts["filters"]
    assert (counts["documents"], counts["duplicates"], counts["empty"]) == (70, 70, 0)
    assert (filters["length"]["dropped"], filters["urls"]["dropped"]) == (1, 1)
    again = shard(corpus=(write_text(tmp_path / "once.txt", [[*lines, "[email]."] for lines in documents]),),
                  output=str(tmp_path / "once"))  # fmt: skip
    hashes = [[info.hash for info in each.shards] for each in (manifest, again)]
    assert hashes[0] == hashes[1]
    low = min(int(example["document"], 16) for example in filters["email"]["examples"])
    block_documents = [
        block.document_a for info in manifest.shards for block in read_blocks(str(tmp_path / "shards"), info)
    ]
    assert low == np.concatenate(block_documents).min()


def test_files_and_their_order_change_nothing_and_given_sentences_are_filtered_alike(
    shard: Callable[..., Manifest], make_documents: Any, write_text: Any, tmp_path: Path
) -> None:
    documents = [[*lines, "See http://bad.org, or bab@bad.org."] for lines in make_documents(90)]
    read = options("urls", "length=80", "letters", redact=("email",))
    one = shard(corpus=(write_text(tmp_path / "a" / "all.txt", documents),), read=read)
    for index in range(3):
        write_text(tmp_path / "b" / f"{9 - index}.txt", documents[index::3][::-1])
    many = shard(corpus=(str(tmp_path / "b"),), read=read, output=str(tmp_path / "many"))
    rows = "".join(json.dumps({"sentences": lines}) + "\n" for lines in documents)
    (tmp_path / "all.jsonl").write_text(rows)
    given = shard(corpus=(str(tmp_path / "all.jsonl"),), output=str(tmp_path / "given"), read=read)
    for other in (many, given):
        assert other.counts == one.counts
        assert [info.hash for info in other.shards] == [info.hash for info in one.shards]
    assert one.counts["filters"]["urls"]["documents"] == 90


def test_filters_are_settings_that_folders_made_without_them_do_not_have(
    shard: Callable[..., Manifest], tmp_path: Path
) -> None:
    manifest = shard()
    assert not {"filters", "redactions"} & set(manifest.settings)
    assert "filters" not in manifest.counts
    assert shard(read=options()) == manifest
    with pytest.raises(
        InputError, match=r"shards made otherwise \(settings\.filters: \{'length': 5\} here, None"
    ):
        shard(read=options("length=5"))
    other = str(tmp_path / "other")
    shard(read=options("length=5", redact=("a=xqz", "phone")), output=other)
    shard(read=options("length=5", redact=("phone", "a=xqz")), output=other)
    with pytest.raises(
        InputError, match=r"settings\.filters\.length: 6 here, 5 there; settings\.redactions\.a: 'regex"
    ):
        shard(read=options("length=6", redact=("phone", "a=xyz")), output=other)


def test_what_filters_did_is_said_shown_and_written_down(
    shard: Callable[..., Manifest], private: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard(corpus=(private,), read=options("length=300", redact=("email",)), vocab=None, vocab_size=250)
    dropped = json.loads((tmp_path / "shards" / "manifest.json").read_text())["counts"]["filters"]["length"]
    assert dropped["dropped"] == dropped["documents"] > 3
    words = f"{dropped['dropped']} documents dropped"
    assert f"filter     length 300: {words}" in (said := capsys.readouterr().err)
    assert f"{dropped['dropped']} dropped by filters)" in said
    report = inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=0))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"length 300: {words}" in shown
    example = dropped["examples"][0]
    assert example["value"] < 300
    assert f"– {example['value']}: {' '.join(example['text'].split())}" in shown
    assert report["counts"]["filters"]["length"] == dropped


def test_a_corpus_that_filters_leave_nothing_of_is_refused_with_the_reason(
    shard: Callable[..., Manifest], corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"0 distinct .* and 0 empty ones dropped, 240 by filters"):
        shard(read=options("length=100000"))
    config = vocab.VocabConfig(
        corpus=(str(corpus),), output=str(tmp_path / "vocab"), size=200, read=options("length=100000")
    )
    with pytest.raises(InputError, match="the filters drop all 240 documents"):
        vocab.run(config)
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "vocab").exists()


@pytest.mark.parametrize("max_bytes", [None, 20_000])
def test_a_vocabulary_learns_from_what_filters_leave_and_says_so(
    private: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], max_bytes: int | None
) -> None:
    def train(output: str, *filters: str) -> vocab.Vocabulary:
        read = options("markup", *filters, redact=REDACTIONS)
        return vocab.run(
            vocab.VocabConfig(
                corpus=(private,),
                output=str(tmp_path / output),
                size=150,
                unused=0,
                read=read,
                max_bytes=max_bytes,
            )
        )

    made = train("vocab")
    assert not [token for token in made.tokens if set("xqvyz") & set(token.lower()) and token != "[MASK]"]
    lineage = json.loads((tmp_path / "vocab" / "lineage.json").read_text())
    assert lineage["filters"]["email"]["matches"] == lineage["corpus"]["documents"] == 80
    assert lineage["settings"]["filters"] == {"markup": True}
    assert "filter email: 80 in 80 documents" in capsys.readouterr().err
    assert train("vocab") == made
    with pytest.raises(InputError, match=r"another vocabulary \(filters\.length: 5 here, None there\)"):
        train("vocab", "length=5")
