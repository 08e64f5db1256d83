"""Readers: the same documents from every form."""

import html
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.corpus import documents, parquet_files, text_files
from pipeline.corpus.documents import Fingerprint, canonical
from pipeline.corpus.readers import (
    Document,
    ReadOptions,
    document_hash,
    normalise,
)
from pipeline.corpus.text_files import stripped_lines
from workshop.reading import corpora, read, texts, write_parquet

LINES = ReadOptions(sentences="lines")


def write_forms(folder: Path, documents: list[list[str]], newline: str, *, ascii_json: bool) -> list[str]:
    """The documents in every kind of file; returns the files' names."""
    forms = {
        "plain.txt": (newline * 2).join(newline.join(lines) for lines in documents),
        "text.jsonl": "\n".join(
            json.dumps({"id": 1, "text": newline.join(lines)}, ensure_ascii=ascii_json) for lines in documents
        ),
        "cut.ndjson": "\n".join(json.dumps({"sentences": lines}) for lines in documents),
        "nested.json": "".join(
            json.dumps({"doc": {"body": "\n".join(lines)}}) + "\r\n" for lines in documents
        ),
        "wiki_00": "".join(
            f'<doc id="{index}" url="?" title="A {chr(34)}title{chr(34)}">{newline}A "title"{newline * 2}'
            f"{newline.join(html.escape(line) for line in lines)}{newline * 2}</doc>{newline}"
            for index, lines in enumerate(documents)
        ),
    }
    for name, text in forms.items():
        (folder / name).write_bytes(text.encode())
    rows = ["\n".join(lines) for lines in documents]
    write_parquet(folder / "text.parquet", rows, row_group_size=2)
    table = pa.table({"n": range(len(rows)), "doc": [{"id": 1, "body": row} for row in rows]})
    pq.write_table(table, folder / "nested.parquet")
    pq.write_table(pa.table({"sentences": documents}), folder / "cut.parquet")
    return [*forms, "text.parquet", "nested.parquet", "cut.parquet"]


@given(
    documents=corpora,
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    ascii_json=st.booleans(),
    block=st.integers(1, 40),
)
def test_documents_come_back_from_every_form(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[str]],
    newline: str,
    ascii_json: bool,
    block: int,
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "BLOCK_BYTES", block)
        patch.setattr(parquet_files, "BATCH_ROWS", 3)
        for name in write_forms(folder, documents, newline, ascii_json=ascii_json):
            key = "doc.body" if "nested" in name else None
            for sentences in ("paragraphs", "lines"):
                options = ReadOptions(sentences=sentences, text_key=key)  # type: ignore[arg-type]
                found = read(folder / name, options=options)
                assert [document.text for document in found] == ["\n".join(lines) for lines in documents], (
                    name
                )
                if sentences == "lines" or "cut" in name:
                    assert [list(document.sentences or ()) for document in found] == documents, name
                else:
                    assert all(document.sentences is None for document in found), name


def test_a_blank_line_ends_a_document_and_white_space_alone_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n one \ntwo\n\t\n\n\nthree\n\n", encoding="utf-8")
    assert read(tmp_path / "a.txt") == [Document(text="one\ntwo"), Document(text="three")]
    lines = read(tmp_path / "a.txt", options=LINES)
    assert [document.sentences for document in lines] == [("one", "two"), ("three",)]


def test_nul_bytes_and_form_feeds_leave_words_apart_and_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"wo\0rd page\x0cnext\x85 e\xcc\x81".replace(b"\x85", b"\xc2\x85"))
    assert texts(tmp_path / "a.txt") == ["word page next é"]


def test_empty_parquet_rows_come_as_empty_documents_to_be_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, " \n ", "", "two\n\nthree"])
    assert texts(tmp_path / "a.parquet") == ["one", "", "", "", "two\nthree"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", "two", "one"], kind)
    assert texts(tmp_path / "a.parquet") == ["one", "two", "one"]


def test_a_column_of_null_alone_is_of_empty_documents(tmp_path: Path) -> None:
    for column in (pa.nulls(2), pa.array([[None], None], pa.list_(pa.null()))):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        assert texts(tmp_path) == ["", ""]
    pq.write_table(pa.table({"text": pa.nulls(1), "sentences": [["one"]]}), tmp_path / "a.parquet")
    assert texts(tmp_path) == ["one"]


def test_null_among_sentences_is_left_out_of_json_as_of_parquet(tmp_path: Path) -> None:
    rows = [{"sentences": ["one", None, "two"]}, {"sentences": [None]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert [document.sentences for document in read(tmp_path / name)] == [("one", "two"), ()], name


def test_a_large_row_group_is_read_in_small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [random.Random(index).randbytes(50_000).hex() for index in range(100)]  # 10 MB in one row group
    write_parquet(tmp_path / "a.parquet", rows, use_dictionary=False, compression="none", write_batch_size=16)
    asked: list[int] = []
    open_read = storage.open_read

    class Recorded(io.BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            asked.append(len(data))
            return data

    monkeypatch.setattr(storage, "open_read", lambda path: Recorded(open_read(path).detach()))  # type: ignore[attr-defined]
    assert texts(tmp_path / "a.parquet") == rows
    assert sum(asked) > 10_000_000
    assert max(asked) < 3_000_000


def test_raw_control_characters_in_json_are_text_and_nuls_none(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'\0{"text": "a\tb\x01 c\0d\re\x0cf"}\0\n\0\0\n{"n": ' + b"9" * 5000 + b', "text": "two"}\n'
    )
    (tmp_path / "b.json").write_bytes(b'{"n": ' + b"9" * 5000 + b', "text": "a\tb"}\n')
    assert texts(tmp_path) == ["a b\x01 cd\ne f", "two", "a b"]


def test_wikiextractors_json_gives_the_documents_of_its_other_form(tmp_path: Path) -> None:
    articles = [  # title and text, both as it writes them
        ("R&amp;D", ["Is &lt;b&gt; &amp;amp; all.", "More."]),
        ("Empty", []),
        ("Twice", ["Twice", "said."]),
    ]
    doc, new, old = "", "", ""
    for index, (title, lines) in enumerate(articles):
        more = {"id": str(index), "url": f"https://en.wikipedia.org/wiki?curid={index}", "title": title}
        text = "\n".join(lines)
        doc += f'<doc id="{index}" url="u" title="{title}">\n{title}\n\n{text}\n\n</doc>\n'
        new += json.dumps({**more, "revid": "7", "text": text}) + "\n"
        old += json.dumps({**more, "text": "\n".join([f"{title}\n", *lines])}) + "\n"
    for name, data in (("doc", doc), ("new", new), ("old", old)):
        (tmp_path / name).write_text(data)
    expected = ["Is <b> &amp; all.\nMore.", "", "Twice\nsaid."]
    assert texts(tmp_path / "doc") == texts(tmp_path / "new") == texts(tmp_path / "old") == expected
    others = [
        {"id": "1", "url": "u?curid=2", "title": "T", "text": "a &amp; b"},
        {"id": "1", "url": "u?curid=1", "title": "T", "text": "a &amp; b", "source": "forum"},
        {"id": "1", "url": "https://a.org", "title": "T", "text": "a &amp; b"},
        {"text": "a &amp; b"},
    ]
    (tmp_path / "others").write_text("".join(json.dumps(other) + "\n" for other in others))
    assert texts(tmp_path / "others") == ["a &amp; b"] * 4, "what others wrote stays as it is"


def test_text_counts_before_sentences_and_null_gives_way(tmp_path: Path) -> None:
    rows = [
        {"text": "one", "sentences": ["no"]},
        {"text": None, "sentences": ["two", " ", "three\nfour "]},
        {"text": None, "sentences": None},
        {"text": "", "sentences": ["no"]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = [("one", None), ("two\nthree four", ("two", "three four")), ("", None), ("", None)]
    for name in ("a.jsonl", "a.parquet"):
        assert [(document.text, document.sentences) for document in read(tmp_path / name)] == expected


def test_a_count_named_sentences_is_no_obstacle(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"], "sentences": [1]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"sentences": 1, "text": "one"}')
    assert texts(tmp_path) == ["one", "one"]


def test_a_key_with_dots_is_taken_as_it_stands_before_it_is_a_path(tmp_path: Path) -> None:
    row = {"doc.text": "as it stands", "doc": {"text": "as a path"}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + '\n{"doc": {"text": "path"}}\n{"doc": null}')
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    options = ReadOptions(text_key="doc.text")
    assert texts(tmp_path / "a.jsonl", options=options) == ["as it stands", "path", ""]
    assert texts(tmp_path / "a.parquet", options=options) == ["as it stands"]


def test_blank_lines_and_marks_between_json_objects_are_no_documents(tmp_path: Path) -> None:
    mark = "\ufeff"
    (tmp_path / "a.jsonl").write_text(
        f'{mark}{{"text": "one"}}\n\n  \n{mark}\n{mark}{{"text": "{mark}two"}}\r\n'
    )
    assert texts(tmp_path) == ["one", "two"]


def test_a_text_that_speaks_of_wikiextractor_stays_text(tmp_path: Path) -> None:
    article = '<doc id="1" url="?" title="T">\nT\n\nInside.\n\n</doc>\n'
    (tmp_path / "a.txt").write_text(f"wikiextractor writes\n{article}")
    assert texts(tmp_path) == ['wikiextractor writes\n<doc id="1" url="?" title="T">\nT', "Inside.", "</doc>"]
    (tmp_path / "a.txt").write_text(article)
    assert texts(tmp_path, options=ReadOptions(format="wikiextractor")) == ["Inside."]
    assert len(texts(tmp_path, options=ReadOptions(format="text"))) == 3


def test_an_article_without_text_is_an_empty_document_and_the_title_goes_once(tmp_path: Path) -> None:
    (tmp_path / "wiki_00").write_text(
        '<doc id="1" url="u" title="R&amp;D">\nR&amp;D\n\nR&amp;D\n\nIs &lt;b&gt; &amp;amp; all.\n\n</doc>\n'
        '<doc id="2" url="u" title="Empty">\nEmpty\n\n\n</doc>\n<doc id="3">\nUntitled.\n</doc>\n'
    )
    assert texts(tmp_path) == ["R&D\nIs <b> &amp; all.", "", "Untitled."]


def test_hash_sees_content_not_spelling() -> None:
    assert document_hash("café\none") == document_hash(normalise("cafe\u0301 \t one "))
    assert document_hash("one two") != document_hash("onetwo")
    assert all(0 <= half < 1 << 64 for half in document_hash("x"))


def test_fingerprint_is_of_the_documents_in_any_order() -> None:
    def of(documents: list[str]) -> dict[str, object]:
        fingerprint = Fingerprint()
        for document in documents:
            fingerprint.add(document)
        return fingerprint.as_dict()

    first, second = Fingerprint(), Fingerprint()
    first.add("one")
    second.add("zwölf")
    first.merge(second)
    assert of(["one", "zwölf"]) == of(["zwölf", "one"]) == first.as_dict()
    assert of(["one", "one"])["fingerprint"] not in (of([])["fingerprint"], of(["one"])["fingerprint"])
    assert first.as_dict()["bytes"] == 9


spaced = st.text(
    st.sampled_from(["a", "e", "\u0301", " ", "\n", "\t", "\u3000", "\u1112", "\u1161", "\ufeff"]),
    max_size=40,
)


@given(text=spaced, size=st.integers(1, 7))
def test_long_lines_are_taken_in_pieces_with_the_same_result(text: str, size: int) -> None:
    whole = canonical(text), document_hash(normalise(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "_PIECE_CHARACTERS", size)
        assert "".join(documents.single_spaced(text)) == " ".join(text.split())
        assert (canonical(text), document_hash(normalise(text))) == whole


white = st.text(
    st.one_of(
        st.sampled_from(["a", "é", " ", "\t"]),
        st.sampled_from([chr(c) for c in range(0x3001) if chr(c).isspace()]),
    )
)


@given(st.lists(white, max_size=4))
def test_all_white_space_of_canonical_lines_becomes_single_spaces(parts: list[str]) -> None:
    lines = [line for part in parts for line in stripped_lines(canonical(part))]
    assert documents.tidy(lines) == [" ".join(line.split()) for line in lines]
