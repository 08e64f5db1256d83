"""Files that can't be read: one line that names file, place, value and remedy; or the policy for bytes."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.readers import (
    Document,
    ReadOptions,
    find_splits,
    normalise,
)
from pipeline.errors import InputError
from workshop.reading import read, texts, write_parquet


def bad_inputs(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Name → what to read, and what the error must say."""
    (folder / "empty").mkdir()
    (folder / "notes.md").write_text("x")
    (folder / "late.txt").write_bytes(b"fine\r\nfine\n\ncaf\xe9\n")
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbffine\n\xff")
    packed = gzip.compress(os.urandom(5000).hex().encode())
    (folder / "cut.txt.gz").write_bytes(packed[:2000])
    (folder / "none.txt.gz").write_bytes(b"")
    (folder / "plain.txt.gz").write_text("not packed")
    (folder / "garbled.txt.gz").write_bytes(packed[:500] + bytes(50) + packed[550:])
    (folder / "false.parquet").write_text("no table")
    write_parquet(folder / "good.parquet", ["one"])
    data = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    write_parquet(folder / "bytes.parquet", [b"one", b"\xff"], pa.binary())  # type: ignore[list-item]
    raw = pa.array([b"one", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), folder / "latin.parquet")
    return {
        "missing": ("missing.txt", ["missing.txt", "does not exist"]),
        "empty folder": ("empty", ["empty", ".jsonl", ".zst", ".parquet"]),
        "empty glob": ("*.nope", ["*.nope", "matches nothing"]),
        "glob without text": ("*.md", ["*.md", ".parquet"]),
        "unknown suffix": ("notes.md", ["notes.md", ".txt, .jsonl", "--format"]),
        "no UTF-8": ("late.txt", ["late.txt", "line 4", "0xe9", "iconv", "--invalid-utf8"]),
        "no UTF-8 after a mark": ("marked.txt", ["line 2", "0xff"]),
        "truncated gzip": ("cut.txt.gz", ["cut.txt.gz", "ends too early"]),
        "gzip of no bytes": ("none.txt.gz", ["none.txt.gz", "ends too early"]),
        "no gzip": ("plain.txt.gz", ["plain.txt.gz", "not compressed with gz", "take .gz off"]),
        "garbled gzip": ("garbled.txt.gz", ["garbled.txt.gz", "damaged"]),
        "no Parquet": ("false.parquet", ["false.parquet", "no whole Parquet file"]),
        "truncated Parquet": ("cut.parquet", ["cut.parquet", "no whole Parquet file"]),
        "column of bytes": ("bytes.parquet", ["'text' holds binary", "none", "--text-key"]),
        **bad_lines(folder),
        "Parquet, no UTF-8": ("latin.parquet", ["row 2", "0xff", "--invalid-utf8"]),
    }


def bad_lines(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """The same, of JSON Lines and wikiextractor's files."""
    good = '{"text": "one"}\n'
    article = '<doc id="1" url="?" title="T">\nT\n\nText.\n\n</doc>\n'
    files = {
        "no JSON": ("a.jsonl", good + "\n{'text': 1}\n", ["a.jsonl: line 3 is no JSON", "column 2"]),
        "cut JSON": ("b.jsonl", good + '{"text": "on', ["b.jsonl: line 2 is no JSON"]),
        "one list for all": ("c.jsonl", "[\n" + good + "]", ["c.jsonl: line 1 is no JSON", "jq -c"]),
        "a list a line": ("d.jsonl", good + "[1]\n", ["line 2 is a list, not an object"]),
        "no key": ("e.jsonl", '{"body": "x", "i\\nd": 1}', ["line 1 has no 'text' and no 's", "'body'", "--text-key"]),
        "a number": ("f.jsonl", good * 2 + '{"text": 5}', ["line 3: 'text' holds a number, not a text"]),
        "an object": ("g.jsonl", '{"text": {"a": "b"}}', ["'text' holds an object"]),
        "a mixed list": ("h.jsonl", '{"sentences": ["a", null, 3]}', ["'sentences' holds a list with a number in it"]),
        "half a pair": ("i.jsonl", '{"text": "a \\ud83d b"}', ["line 1: 'text' holds half a surrog", "--invalid"]),
        "deeply nested": ("j.jsonl", '{"text":' + "[" * 100_000, ["line 1 is nested too deeply"]),
        "a long number": ("k.jsonl", '{"text":' + "9" * 5000 + "}", ["line 1: 'text' holds a number"]),
        "an open string": ("r.jsonl", '{"text": "x', ["line 1 is no JSON: Unterminated string starting at column 10;"]),
        "UTF-16": ("l.txt", "text".encode("utf-16").decode("latin-1"), ["l.txt is UTF-16", "iconv"]),
        "Parquet by another name": ("m.txt", "PAR1\x15\x04", ["m.txt is a Parquet file"]),
        "zip": ("n.jsonl", "PK\x03\x04", ["n.jsonl is a zip archive"]),
        "unended article": ("wiki_00", article + article[:-8], ["wiki_00 ends inside the article that line 7 begins"]),
        "article in another": ("wiki_01", article[:-8] + article, ["line 5 begins an article inside the one of li"]),
        "text between": ("wiki_02", article + "stray\n", ["line 7 stands outside", "'stray'"]),
        "articles by the name of text": ("o.txt", article, ["o.txt is named as text", "--format wikiextractor"]),
        "neither": ("part-00000", "some text\n", ["part-00000: unknown kind of file", "--format"]),
        "JSON, not a line each": ("p.json", '{\n "text": "x"\n}\n', ["p.json does not hold a JSON object a l", "jq"]),
    }  # fmt: skip
    for name, text, _ in files.values():
        (folder / name).write_bytes(text.encode("latin-1"))
    (folder / "q.jsonl").write_bytes(good.encode() + b'{"text": "caf\xe9"}')
    return {what: (name, parts) for what, (name, _, parts) in files.items()} | {
        "JSON, no UTF-8": ("q.jsonl", ["q.jsonl: line 2", "0xe9", "--invalid-utf8"])
    }


def test_bad_input_is_one_line_that_names_value_and_remedy(tmp_path: Path) -> None:
    for name, (spec, expected) in bad_inputs(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read(tmp_path / spec)
        message = str(caught.value)
        assert "\n" not in message, name
        assert all(part in message for part in expected), (name, message)


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one"])
    with pytest.raises(InputError, match="no column 'body'; its columns are id, text"):
        read(tmp_path, options=ReadOptions(text_key="body"))
    with pytest.raises(InputError, match=r"no column 'text\.body'; its columns are id, text"):
        read(tmp_path, options=ReadOptions(text_key="text.body"))
    with pytest.raises(InputError, match="'id' holds int64, not text; columns of text: text"):
        read(tmp_path, options=ReadOptions(text_key="id"))
    pq.write_table(pa.table({"doc": [{"body": "x", "parts": ["x"], "n": 1}]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"'doc' holds struct.*columns of text: doc\.body, doc\.parts"):
        read(tmp_path, options=ReadOptions(text_key="doc"))


def test_a_column_that_stands_there_twice_is_named(tmp_path: Path) -> None:
    column = pa.array(["one"])
    for table, key, name in (
        (pa.Table.from_arrays([column, column], ["text", "text"]), None, "'text'"),
        (pa.table({"doc": pa.StructArray.from_arrays([column, column], ["a", "a"])}), "doc.a", r"'doc\.a'"),
    ):
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(InputError, match=f"a.parquet has 2 columns {name}; rename .*--text-key"):
            read(tmp_path, options=ReadOptions(text_key=key))
    pq.write_table(pa.Table.from_arrays([column, column, column], ["text", "n", "n"]), tmp_path / "a.parquet")
    assert texts(tmp_path) == ["one"], "one that isn't asked for is no obstacle"


def test_a_pipe_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for spec in (str(tmp_path / "a.txt"), (tmp_path / "a.txt").as_uri(), "/dev/null"):
        with pytest.raises(InputError, match=r"is a pipe or a device.*write it to a file first"):
            find_splits([spec])


@pytest.mark.parametrize("name", ["a.txt", "books", "books.2020"])
@pytest.mark.parametrize("spec", ["", "*", "**", "{}"])
def test_a_link_to_something_gone_is_refused_not_left_out(tmp_path: Path, name: str, spec: str) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).symlink_to(tmp_path / "gone")
    for root in (str(tmp_path), tmp_path.as_uri()):
        with pytest.raises(InputError, match=f"{name} is a link to something that is gone"):
            find_splits([f"{root}/{spec.format(name)}".rstrip("/")])


def test_unknown_sentences_and_no_corpus_are_refused() -> None:
    with pytest.raises(InputError, match="'words'"):
        ReadOptions(sentences="words")  # type: ignore[arg-type]
    for wrong in ({"format": "csv"}, {"invalid_utf8": "ignore"}, {"text_key": ""}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ReadOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no corpus given"):
        find_splits([])


INVALID = b"caf\xe9 \xf0\x9f\x98 ok\xff\xfe end"


@given(
    data=st.lists(st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b"\n\n", b"a b", "é".encode()])))
)
def test_replacing_gives_what_the_standard_does(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes]
) -> None:
    raw = b"".join([b"x ", *data])
    folder = tmp_path_factory.mktemp("replaced")
    (folder / "a.txt").write_bytes(raw)
    (folder / "b.txt").write_text(raw.decode("utf-8", "replace"), encoding="utf-8", newline="")
    replaced = texts(folder / "a.txt", options=ReadOptions(invalid_utf8="replace"))
    assert replaced == texts(folder / "b.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "wiki_00", "cut.parquet"])
def test_policies_on_bytes_that_are_no_utf8(tmp_path: Path, name: str) -> None:
    if name == "a.txt":
        data = b"before\n\n" + INVALID + b"\nmore\n\nafter"
    elif name == "a.jsonl":
        data = b'{"text": "before"}\n{"text": "' + INVALID + b'\\nmore"}\n{"text": "after"}'
    elif name == "wiki_00":
        bodies = (b"before", INVALID + b"\nmore", b"after")
        data = b"".join(b'<doc id="1" title="T">\nT\n\n' + body + b"\n\n</doc>\n" for body in bodies)
    else:
        raw = pa.array([b"before", INVALID + b"\nmore", b"after"], pa.binary()).view(pa.string())
        column = raw if name == "a.parquet" else pa.ListArray.from_arrays([0, 1, 2, 3], raw)
        pq.write_table(pa.table({"text": column}), tmp_path / name)
        data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=r"is no UTF-8 \(byte 0xe9\).*--invalid-utf8"):
        read(tmp_path)
    replaced = read(tmp_path, options=ReadOptions(invalid_utf8="replace"))
    assert [document.invalid for document in replaced] == [None, "replaced", None]
    mended = "caf\ufffd \ufffd ok\ufffd\ufffd end"
    assert normalise(replaced[1].text) == f"{mended} more"
    skipped = read(tmp_path, options=ReadOptions(invalid_utf8="skip"))
    assert [(document.text, document.invalid) for document in skipped] == [
        ("before", None), ("", "skipped"), ("after", None),
    ]  # fmt: skip


@given(
    pieces=st.lists(
        st.sampled_from(
            [b"a", "\u00e9".encode(), b"\xe9", b"\xf0\x9f", b"\\ud83d", b"\\udc80", b"\\ud83d\\ude00"]
        )
    )
)
def test_json_is_mended_as_the_standard_does(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("mended") / "a.jsonl"
    raw = b" ".join([b"x", *pieces])
    path.write_bytes(b'{"text": "' + raw + b'"}')
    spelled = raw.decode("utf-8", "replace").replace("\\ud83d\\ude00", "\U0001f600")
    for half in ("\\ud83d", "\\udc80"):
        spelled = spelled.replace(half, "\ufffd")
    assert texts(path, options=ReadOptions(invalid_utf8="replace")) == [normalise(spelled)]


def test_bytes_that_are_no_utf8_matter_in_the_text_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"caf\xe9": "\xff", "text": "one", "sentences": ["\xff"]}\n{"text": "two"}'
    )
    raw = pa.array([b"\xff", b"x"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"title": raw, "text": ["one", "two"]}), tmp_path / "b.parquet")
    for policy in ("error", "replace", "skip"):
        found = read(tmp_path, options=ReadOptions(invalid_utf8=policy))  # type: ignore[arg-type]
        assert found == [Document(text="one"), Document(text="two")] * 2


def test_half_a_surrogate_pair_in_json_follows_the_policy(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": "\\udc00", "text": "whole \\ud83d\\ude00"}\n{"text": "a\\ud83db"}\n'
    )
    replaced = read(tmp_path, options=ReadOptions(invalid_utf8="replace"))
    assert [document.text for document in replaced] == ["whole \U0001f600", "a\ufffdb"]
    assert [document.invalid for document in replaced] == [None, "replaced"]
    skipped = read(tmp_path, options=ReadOptions(invalid_utf8="skip"))
    assert [document.invalid for document in skipped] == [None, "skipped"]
