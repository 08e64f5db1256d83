"""Compressed files: read whole, or refused in one line."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.readers import (
    ReadOptions,
)
from pipeline.errors import InputError
from workshop.reading import PARAGRAPHS, corpora, texts

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@given(documents=corpora, packer=st.sampled_from(sorted(PACKERS)), cut=st.floats(0, 1), bom=st.booleans())
def test_a_compressed_file_of_several_members_is_read_whole(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[str]],
    packer: str,
    cut: float,
    bom: bool,
) -> None:
    path = tmp_path_factory.mktemp("packed") / f"joined.txt{packer}"
    mark = b"\xef\xbb\xbf" if bom else b""
    parts = ["\n\n".join("\n".join(lines) for lines in documents) + "\n\n"] * 2
    data = b"".join(PACKERS[packer](mark + part.encode()) for part in parts)
    path.write_bytes(data)
    assert texts(path) == ["\n".join(lines) for lines in documents] * 2


@pytest.mark.parametrize("packer", [packer for packer in PACKERS if packer])
@pytest.mark.parametrize("members", [1, 2])
def test_a_compressed_file_cut_short_anywhere_is_refused(tmp_path: Path, packer: str, members: int) -> None:
    text = os.urandom(300).hex().encode()
    pack = PACKERS[packer]
    whole, before = pack(text), pack(b"first member\n\n") * (members - 1)
    path = tmp_path / f"cut.txt{packer}"
    path.write_bytes(before + whole)
    assert texts(path) == [*["first member"] * (members - 1), text.decode()]
    for length in range(0 if members == 1 else 1, len(whole) - 1, 7):
        path.write_bytes(before + whole[:length])
        with pytest.raises(InputError, match=r"cut\.txt\S+ (ends too early|is damaged|is not compressed)"):
            texts(path)


@pytest.mark.parametrize("packer", [".gz", ".bz2", ".xz"])
def test_no_damaged_byte_of_a_compressed_file_goes_unseen(tmp_path: Path, packer: str) -> None:
    text = os.urandom(300).hex().encode()
    data = PACKERS[packer](text) * 2
    path = tmp_path / f"damaged.txt{packer}"
    for place in range(0, len(data), 5):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            found = texts(path)
        except InputError:
            continue
        assert found == [text.decode() * 2], "the byte was of no importance (a time, a name)"


def test_a_file_compressed_otherwise_than_its_name_says_is_one_line(tmp_path: Path) -> None:
    for packer, pack in PACKERS.items():
        for claimed in PACKERS:
            if claimed == packer:
                continue
            path = tmp_path / f"a.txt{claimed}"
            path.write_bytes(pack(b"some text that is long enough"))
            for options in (PARAGRAPHS, ReadOptions(invalid_utf8="replace")):
                with pytest.raises(InputError) as caught:
                    texts(path, options=options)
                expected = f"let its name end in {packer}" if packer else f"take {claimed} off its name"
                assert expected in str(caught.value)
                assert "\n" not in str(caught.value)
