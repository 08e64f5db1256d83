"""Files cut into pieces: the documents of the pieces, one after the other, are those of the file."""

import gzip
import io
import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.corpus import pieces, splits, text_files
from pipeline.corpus.pieces import find_cuts, piece_bytes
from pipeline.corpus.readers import Document, ReadOptions, Split, find_splits, read_documents
from pipeline.errors import InputError
from workshop.reading import read, texts

MIB = 1 << 20
MARK = "\ufeff".encode()

LINES = [
    b'{"text": "a"}',
    b'{"text": "b\\n\\nc"}',
    b'{"text": null}',
    b"",
    b" ",
    MARK,
    b"\0",
    b'{"text": "\r"}',
]
ARTICLE = b'<doc id="1" title="T">\nT\n\na\n</doc>\n'
WIKI = [
    b'<doc id="1" title="T">',
    b"T",
    b"</doc>",
    b" </doc>",
    MARK + b"</doc>",
    b"a </doc>",
    b"a &amp; b",
    b"",
    b" ",
]
# What ends lines, is blank, goes, or looks like a part of one of these.
GAPS = [b"\n", b"\r", b"\r\n", b" ", b"\f", b"\x1c", b"\0", MARK, *map(str.encode, "\x85\u2028\u3000")]
LETTERS = [b"a", b"e", b"b c", "\u0301".encode(), "é".encode(), "。".encode()]
BROKEN = [b"\xe9", b"\xef", b"\xbb", b"\xf0\x9f", b"\xff\xfe"]


def in_pieces(path: Path, piece: int, **more: Any) -> list[Split]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "piece_bytes", lambda corpus_bytes: piece)
        return find_splits([str(path)], **more)


def documents_of(found: list[Split], options: ReadOptions) -> list[Document] | str:
    """The documents, or the error that ended the reading."""
    try:
        return [document for split in found for document in read_documents(split, options)]
    except InputError as error:
        return str(error)


def assert_pieces_are_the_whole(
    folder: Path, data: bytes, piece: int, block: int, *, all_errors: bool = True, **reading: Any
) -> list[Split]:
    """Under every policy; `block`: bytes that are read at once. Where not `all_errors`, which one doesn't count."""
    path = folder / "corpus"
    path.write_bytes(data)
    cut: list[Split] = []
    for policy in ("error", "replace", "skip"):
        options = ReadOptions(invalid_utf8=policy, **reading)  # type: ignore[arg-type]
        whole = documents_of([Split(path=str(path), kind=reading["format"], bytes=len(data))], options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_files, "BLOCK_BYTES", block)
            patch.setattr(pieces, "_FIRST_READ", block)
            patch.setattr(pieces, "_LARGEST_READ", 2 * block)
            patch.setattr(pieces, "_LONGEST_BOUNDARY", 3 * block)
            if isinstance(whole, str) and "is UTF-16" in whole and len(data) > piece:
                with pytest.raises(InputError, match="is UTF-16"):
                    in_pieces(path, 1, format=reading["format"])
                return []
            cut = in_pieces(path, piece, format=reading["format"])
            if len(cut) > 1:
                ranges = [split.byte_range or (0, 0) for split in cut]
                edges = [0, *(last for _, last in ranges)]
                assert ranges == list(pairwise(edges))
                assert edges == sorted(set(edges))
                assert edges[-1] == len(data)
                assert [split.bytes for split in cut] == [last - first for first, last in ranges]
            found = documents_of(cut, options)
        if isinstance(whole, str) and not all_errors:
            assert isinstance(found, str)
        else:
            assert found == whole
    return cut


@given(
    data=st.lists(
        st.tuples(st.sampled_from(LETTERS), st.lists(st.sampled_from(GAPS), max_size=4).map(b"".join)).map(
            b"".join
        )
    ).map(b"".join),
    broken=st.lists(st.tuples(st.integers(0, 60), st.sampled_from(BROKEN)), max_size=3),
    sentences=st.sampled_from(["paragraphs", "lines"]),
    piece=st.integers(1, 20),
    block=st.integers(1, 12),
)
@example(data=b"\xff\xfea\n\nb", broken=[], sentences="lines", piece=1, block=9)
def test_pieces_of_a_text_hold_its_documents(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    broken: list[tuple[int, bytes]],
    sentences: str,
    piece: int,
    block: int,
) -> None:
    for place, what in broken:
        data = data[:place] + what + data[place:]
    folder = tmp_path_factory.mktemp("text")
    assert_pieces_are_the_whole(folder, data, piece, block, format="text", sentences=sentences)


@pytest.mark.parametrize("block", [1, 2, 7, 4000])
def test_a_text_is_never_cut_inside_a_document_whatever_stands_between_its_lines(
    tmp_path: Path, block: int
) -> None:
    """All that can stand there, up to a length, cut wherever it can be."""
    gaps = [b"\n", b"\r", b" ", b"\0", MARK, "\u3000".encode()]
    data = b"".join(b"a" + b"".join(gap) for count in range(5) for gap in product(gaps, repeat=count))
    cut = assert_pieces_are_the_whole(tmp_path, data, 1, block, format="text", sentences="lines")
    assert len(cut) > 300


def test_a_file_of_articles_is_cut_behind_them_alone(tmp_path: Path) -> None:
    ends = [b"</doc>", b" </doc>", b"</doc> ", MARK + b"</doc>", b"</doc>\0", "\u3000</doc>".encode()]
    bodies = [b"a </doc>", b"</doc> a", b"a\n\n</doc>.", b"&lt;/doc&gt;", b""]
    newlines = [b"\n", b"\r\n", b"\r", b"\r\0\n", b"\r" + MARK + b"\n"]
    data = b"".join(
        (b'<doc id="1" title="T">\nT\n\n' + body + b"\n" + end + b"\n").replace(b"\n", newline)
        for body, end, newline in product(bodies, ends, newlines)
    )
    cut = assert_pieces_are_the_whole(tmp_path, data, 1, 50, format="wikiextractor")
    assert len(cut) - 1 == 5 * 2 * 3, "those whose end is unmistakable"


@given(
    lines=st.lists(
        st.one_of(
            st.sampled_from(LINES),
            st.sampled_from([b'{"text": "\xe9"}', b'{"text": 1}', b'{"text"', b"\xff"]),
        ),
        max_size=8,
    ),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    end=st.sampled_from([b"", b"\n"]),
    piece=st.integers(1, 40),
    block=st.integers(1, 30),
)
def test_pieces_of_json_lines_hold_its_documents(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    newline: bytes,
    end: bytes,
    piece: int,
    block: int,
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    assert_pieces_are_the_whole(folder, newline.join(lines) + end, piece, block, format="jsonl")


@given(
    articles=st.lists(
        st.one_of(st.just(ARTICLE), st.lists(st.sampled_from(WIKI), max_size=4).map(b"\n".join))
    ),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    broken=st.booleans(),
    piece=st.integers(1, 60),
    block=st.integers(1, 30),
)
def test_pieces_of_wikiextractors_files_hold_their_articles(
    tmp_path_factory: pytest.TempPathFactory,
    articles: list[bytes],
    newline: bytes,
    broken: bool,
    piece: int,
    block: int,
) -> None:
    """A whole block is decoded before the structure of its lines is seen, so which error comes first may differ."""
    data = b"\n".join(articles)
    if broken:
        data = data.replace(b"T\n\na", b"T\n\n\xe9")
    assert_pieces_are_the_whole(
        tmp_path_factory.mktemp("articles"), data.replace(b"\n", newline), piece, block, format="wikiextractor",
        all_errors=not broken,
    )  # fmt: skip


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["text", "jsonl", "wikiextractor"])
def test_a_file_of_small_documents_is_cut_near_each_multiple(tmp_path: Path, kind: Any, newline: str) -> None:
    bodies = [f"document {index}, which says little, in é few bytes" for index in range(400)]
    if kind == "text":
        text = f"{newline} {newline}".join(bodies)
    elif kind == "jsonl":
        text = "\n".join(json.dumps({"text": body}) for body in bodies)
    else:
        text = "".join(
            f'<doc id="1" title="T">{newline}T{newline * 2}{body}{newline}</doc>{newline}' for body in bodies
        )
    cut = assert_pieces_are_the_whole(tmp_path, text.encode(), 1000, 100, format=kind)
    assert len(cut) == (len(text.encode()) + 500) // 1000
    assert max(split.bytes for split in cut) < 1200


def test_small_and_compressed_files_are_read_whole(tmp_path: Path) -> None:
    data = b"one\n\ntwo\n\n" * 100
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(data))
    for path, piece in (("a.txt", 1000), ("a.txt", 700), ("b.txt.gz", 10)):
        (split,) = in_pieces(tmp_path / path, piece)
        assert split.byte_range is None
    assert len(in_pieces(tmp_path / "a.txt", 600)) == 2


@pytest.mark.parametrize(
    ("total", "piece"),
    [(0, 4), (35, 4), (1024, 4), (2047, 4), (2048, 8), (10_000, 32), (65_536, 256), (1_000_000, 256)],
)
def test_pieces_grow_with_the_corpus_between_bounds(total: int, piece: int) -> None:
    assert piece_bytes(total * MIB) == piece * MIB


class Recorded(io.BufferedReader):
    """Notes the range of all that is read."""

    places: list[tuple[int, int]] = []  # noqa: RUF012

    def read(self, size: int | None = -1, /) -> bytes:
        first = self.tell()
        data = super().read(size)
        Recorded.places.append((first, first + len(data)))
        return data


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges read from files, as they come."""
    open_read = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda path: Recorded(open_read(path).detach()))  # type: ignore[attr-defined]
    monkeypatch.setattr(Recorded, "places", [])
    return Recorded.places


def test_one_giant_document_is_looked_through_once(
    tmp_path: Path, places: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line\n" * 300_000 + b"\n" + b"short\n\n" * 100_000)
    monkeypatch.setattr(pieces, "_LARGEST_READ", 1 << 18)
    cut = in_pieces(path, 1 << 18)
    assert [split.bytes >> 18 for split in cut][:2] == [8, 0]
    assert len(cut) == 4
    assert sum(last - first for first, last in places) < 1.3 * path.stat().st_size
    assert max(last - first for first, last in places) <= 1 << 18


def test_little_is_read_to_cut_and_a_piece_reads_its_range_alone(
    tmp_path: Path, places: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"".join(b"document %d\n\n" % index for index in range(200_000)))
    monkeypatch.setattr(pieces, "_FIRST_READ", 4096)
    cut = in_pieces(path, 1 << 18)
    assert len(cut) == 13
    assert sum(last - first for first, last in places) < 13 * 5000
    for split in cut:
        places.clear()
        assert sum(1 for _ in read_documents(split, ReadOptions())) > 10_000
        first, last = split.byte_range or (0, 0)
        assert set(places) == {(0, 10), (first, last), (last, last)}, (
            "how it is compressed, its own, and the end"
        )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_errors_of_a_piece_name_the_line_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newline: bytes
) -> None:
    text = b"".join(b"document %d%s%s" % (index, newline, newline) for index in range(100))
    (tmp_path / "a.txt").write_bytes(text + b"caf\xe9")
    cut = in_pieces(tmp_path / "a.txt", 200)
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 7)
    with pytest.raises(InputError, match="line 201 is no UTF-8"):
        list(read_documents(cut[-1], ReadOptions()))
    lines = b"".join(b'{"text": "%d\r"}\n' % index for index in range(100))
    (tmp_path / "a.jsonl").write_bytes(lines + b"{}")
    with pytest.raises(InputError, match="line 101 has no 'text'"):
        list(read_documents(in_pieces(tmp_path / "a.jsonl", 200)[-1], ReadOptions()))
    articles = (ARTICLE * 20).replace(b"\n", newline)
    for more, said in (
        (b"stray", "line 101 stands outside"),
        (
            ARTICLE[:10] + b'" title="">\n\n' + ARTICLE,
            "line 103 begins an article inside the one of line 101,",
        ),
        (ARTICLE[:-8], "ends inside the article that line 101 begins"),
    ):
        (tmp_path / "wiki_00").write_bytes(articles + more.replace(b"\n", newline))
        with pytest.raises(InputError, match=said):
            list(
                read_documents(
                    in_pieces(tmp_path / "wiki_00", 200, format="wikiextractor")[-1], ReadOptions()
                )
            )


def test_how_a_file_begins_is_judged_once_for_all_its_pieces(tmp_path: Path) -> None:
    (tmp_path / "wide.jsonl").write_bytes(('{"text": "a"}\n' * 100).encode("utf-16"))
    with pytest.raises(InputError, match=r"wide\.jsonl is UTF-16"):
        in_pieces(tmp_path / "wide.jsonl", 200)
    (tmp_path / "wiki.txt").write_bytes(ARTICLE * 100)
    first, second, *_ = in_pieces(tmp_path / "wiki.txt", 200)
    with pytest.raises(InputError, match="named as text and begins as wikiextractor's"):
        list(read_documents(first, ReadOptions()))
    assert list(read_documents(second, ReadOptions())), "the first piece's error ends the command"
    (tmp_path / "late.txt").write_bytes(b'one\n\n<doc id="1" title="">\n\n' * 20)
    pieces_of_late = in_pieces(tmp_path / "late.txt", 10)
    assert [document.text for document in documents_of(pieces_of_late, ReadOptions())] == [  # type: ignore[union-attr]
        "one", '<doc id="1" title="">',
    ] * 20  # fmt: skip
    (tmp_path / "marks.txt").write_bytes(b"one\n\n\xff\xfe two\n\n" * 20)
    found = [
        document for split in in_pieces(tmp_path / "marks.txt", 10)
        for document in read_documents(split, ReadOptions(invalid_utf8="replace"))
    ]  # fmt: skip
    assert [document.text for document in found] == ["one", "\ufffd\ufffd two"] * 20


def test_pieces_of_a_uri_are_those_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"document {index}" for index in range(500)))
    whole = texts(tmp_path)
    monkeypatch.setattr(splits, "piece_bytes", lambda corpus_bytes: 1000)
    assert len(find_splits([tmp_path.as_uri()])) == 7
    assert texts(tmp_path.as_uri()) == texts(tmp_path) == whole


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\n\n" * 100)
    cut = in_pieces(path, 100)
    path.write_bytes(b"one\n\ntwo\n\n" * 40)
    assert isinstance(documents_of(cut[:3], ReadOptions()), list)
    assert "ends too early" in documents_of(cut, ReadOptions())


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n\n" * 100)

    def refuse(path: str) -> object:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(storage, "open_read", refuse)
    with pytest.raises(InputError, match=r"cannot read .*a\.txt: Permission denied"):
        in_pieces(tmp_path / "a.txt", 100)
    assert find_cuts("a.parquet", "parquet", 1 << 30, 1 << 20) == []
    with pytest.raises(InputError, match=r"cannot read .*a\.txt: Permission denied"):
        read(tmp_path / "a.txt")
