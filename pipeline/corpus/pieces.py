"""How large a piece of work is, and where plain files are cut into such.

In: the corpus's bytes; a file's path, kind and size. Out: a piece's bytes; offsets at which to cut the file.
What always holds: a piece's size is a function of the corpus's size; where a file is cut, of the file and that size.
A cut lies between two documents, and where no bytes on either side change what the other's are: the documents of the
pieces, one after the other, are those of the file. Not every such place is found, only unmistakable ones. Looking for
them takes a little of the file near each cut, and at most one pass where documents are longer than pieces; memory is
bounded.

Example:
    find_cuts("corpus/all.txt", "text", 9 << 20, 4 << 20)  # [4719004], behind a blank line
"""

import re
from collections.abc import Sequence
from typing import IO

from pipeline.corpus.compressed import is_compressed, open_plain
from pipeline.corpus.formats import Kind
from pipeline.corpus.text_files import refuse_wide

# Some hundred pieces keep cores busy to the end, however many there are, and each piece is a file that all shards are
# gathered from. Below 4 MB (a second or two) starting a task would be felt; above 256 MB, repeating one after a crash.
_PIECES = 256
_LEAST_BYTES = 4 << 20
_MOST_BYTES = 256 << 20

# Blank here is what stays so in canonical text whatever surrounds it. A carriage return ends a line where neither a
# line feed follows, nor a NUL or a byte-order mark (its first byte), which go and may have one behind them.
_LINE_END = rb"(?:\n|\r\n|\r(?=[^\n\0\xef]))"
_BLANK = rb"[ \t\v\f]{0,256}+"
# Each pattern begins with one string, which is found ten times as fast as one of two.
_BOUNDARIES: dict[Kind, tuple[re.Pattern[bytes], ...]] = {
    "text": (
        re.compile(rb"\n" + _BLANK + _LINE_END),
        re.compile(rb"\r(?=[^\n])" + _BLANK + _LINE_END),
    ),
    "jsonl": (re.compile(rb"\n"),),
    # Behind an article: whatever follows is outside of one.
    "wikiextractor": (re.compile(rb"</doc>(?<=[\r\n]</doc>)" + _BLANK + _LINE_END),),
}
_LONGEST_BOUNDARY = 1024
# Read at once while looking: enough for most documents, then more and more, since each read may be a request.
_FIRST_READ = 1 << 16
_LARGEST_READ = 4 << 20


def piece_bytes(corpus_bytes: int) -> int:
    """The bytes of a piece of a corpus of so many: a power of two up to a 256th of it, but 4 MB to 256 MB."""
    share = corpus_bytes // _PIECES
    return max(_LEAST_BYTES, min(_MOST_BYTES, 1 << max(0, share.bit_length() - 1)))


def find_cuts(path: str, kind: Kind, size: int, piece: int) -> list[int]:
    """Where the file of `size` bytes is cut into pieces of about `piece` bytes, ascending; nowhere: [].

    Raises InputError where the file can't be read, or is UTF-16: its other pieces wouldn't show that.
    """
    count = (size + piece // 2) // piece
    if count < 2 or kind == "parquet" or is_compressed(path):
        return []
    cuts = [0]
    with open_plain(path) as stream:
        refuse_wide(path, stream.read(4))
        for number in range(1, count):
            wanted = size * number // count
            if wanted > cuts[-1]:  # a long document may reach over several
                cut = _next_boundary(stream, _BOUNDARIES[kind], wanted)
                if cut is None or cut >= size:
                    break
                cuts.append(cut)
    return cuts[1:]


def _next_boundary(stream: IO[bytes], boundaries: Sequence[re.Pattern[bytes]], wanted: int) -> int | None:
    """The first place at `wanted` or behind it where a boundary ends; None where there is none."""
    start = max(0, wanted - _LONGEST_BOUNDARY)
    stream.seek(start)
    held, size = b"", _FIRST_READ
    while block := stream.read(size):
        held += block
        firsts = (_first_end(held, each, wanted - start) for each in boundaries)
        if ends := [end for end in firsts if end is not None]:
            return start + min(ends)
        start += max(0, len(held) - _LONGEST_BOUNDARY)
        held = held[-_LONGEST_BOUNDARY:]
        size = min(2 * size, _LARGEST_READ)
    return None


def _first_end(held: bytes, boundary: re.Pattern[bytes], wanted: int) -> int | None:
    return next((found.end() for found in boundary.finditer(held) if found.end() >= wanted), None)
