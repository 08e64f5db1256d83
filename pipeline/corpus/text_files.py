"""Plain text → documents: a blank line ends one.

In: a path, maybe a range of its bytes that begins and ends between documents, and the policy for what is no UTF-8.
Out: the documents as lists of stripped lines; for other readers of text, blocks of whole lines with their numbers.
What always holds: memory is bounded by a block and the longest document; a byte-order mark is no text wherever it
stands (files that were joined have several); where blocks end decides nothing; errors name the file's own lines, also
where a range of it is read.

Example:
    for parsed in text_documents("corpus/a.txt.gz", "error"): ...
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pipeline.corpus.compressed import ByteRange, open_plain
from pipeline.corpus.documents import canonical
from pipeline.corpus.formats import DOCUMENT_BEGINS
from pipeline.corpus.utf8 import Policy, decode_marked, is_broken, mend
from pipeline.errors import InputError

BLOCK_BYTES = 4 << 20

# How UTF-16 and UTF-32 begin. To replace what is no UTF-8 in them would leave half of each text.
_WIDE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A document as a reader found it: stripped lines, none empty, in canonical form.

    sentences: whether each line is a sentence as the corpus itself states
    broken: whether something in it was no UTF-8; U+FFFD stands there now
    """

    lines: list[str]
    sentences: bool = False
    broken: bool = False


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Some lines of a file, or of a range of it.

    first: the number of the first, from 1 in what is read; before a range are `lines_before` more
    broken: whether some hold surrogates
    """

    first: int
    lines: list[str]
    broken: bool


def stripped_lines(text: str) -> list[str]:
    """The lines of canonical `text`, stripped, without blank ones."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def text_documents(
    path: str, policy: Policy, byte_range: ByteRange | None = None, *, named: bool = True
) -> Iterator[Parsed]:
    """The documents of a text file, or of a range of it.

    named: whether the file's name alone made it text; then it mustn't begin as wikiextractor's files do.
    """
    held: list[str] = []
    broken = False
    for block in read_lines(path, policy, byte_range):
        if block.first == 1 and named and at_beginning(byte_range):
            _refuse_wikiextractor(path, block.lines)
        for line in block.lines:
            if stripped := line.strip():
                held.append(stripped)
                broken = broken or (block.broken and is_broken(stripped))
            elif held:
                yield parsed_lines(held, broken)
                held, broken = [], False
    if held:
        yield parsed_lines(held, broken)


def _refuse_wikiextractor(path: str, lines: list[str]) -> None:
    first = next((line for line in lines if line.strip()), "")
    if DOCUMENT_BEGINS.fullmatch(first.strip()):
        raise InputError(
            f"{path} is named as text and begins as wikiextractor's files do ({first.strip()[:40]!r}); say which "
            "it is with --format wikiextractor or --format text"
        )


def parsed_lines(lines: list[str], broken: bool) -> Parsed:
    """The document of these lines; mended where `broken`."""
    return Parsed(lines=[mend(line) for line in lines] if broken else lines, broken=broken)


def read_lines(path: str, policy: Policy, byte_range: ByteRange | None = None) -> Iterator[Lines]:
    """All lines of a text file, or of a range of it, in canonical form, many at once.

    Raises InputError where the file can't be read or is damaged, and by `error` for a byte that is no UTF-8.
    """
    number = 1
    with open_plain(path, byte_range) as stream:
        for block in whole_lines(stream, carriage_returns=True):
            if number == 1 and at_beginning(byte_range):
                refuse_wide(path, block)
            broken = False
            try:
                text = block.decode()
            except UnicodeDecodeError as error:
                if policy == "error":
                    line = lines_before(path, byte_range) + number + _line_ends(block[: error.start])
                    raise invalid_utf8(f"{path}: line {line}", block[error.start]) from error
                text, broken = decode_marked(block), True
            first, number = number, number + _line_ends(block)
            del block  # beside the lines: one may be all of a long file
            lines = canonical(text).removesuffix("\n").split("\n")
            del text
            yield Lines(first=first, lines=lines, broken=broken)


def refuse_wide(path: str, start: bytes) -> None:
    """Raise InputError where a file that starts so is UTF-16 or UTF-32."""
    if start.startswith(_WIDE):
        raise InputError(f"{path} is UTF-16 or UTF-32; convert it, for example with iconv -f UTF-16 -t UTF-8")


def invalid_utf8(place: object, byte: int) -> InputError:
    """The refusal of a line, named by `place`, that is no UTF-8."""
    return InputError(
        f"{place} is no UTF-8 (byte 0x{byte:02x}); convert the file, for example "
        "with iconv -t UTF-8, or choose --invalid-utf8 replace or skip"
    )


def at_beginning(byte_range: ByteRange | None) -> bool:
    """Whether what is read of a file begins where the file does."""
    return byte_range is None or byte_range[0] == 0


def lines_before(path: str, byte_range: ByteRange | None, *, carriage_returns: bool = True) -> int:
    """The lines of the file before the range.

    All that lies before is read for it, so nobody asks until there is an error that ends the reading.
    carriage_returns: whether those end lines, too
    """
    if byte_range is None or at_beginning(byte_range):
        return 0
    count, half = 0, False
    with open_plain(path, (0, byte_range[0])) as stream:
        while block := stream.read(BLOCK_BYTES):
            count += _line_ends(block) if carriage_returns else block.count(b"\n")
            if carriage_returns and half and block.startswith(b"\n"):
                count -= 1
            half = block.endswith(b"\r")
    return count


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def whole_lines(stream: IO[bytes], *, carriage_returns: bool) -> Iterator[bytes]:
    """The stream in blocks that end at a line's end; with `carriage_returns` those end lines, too."""
    pieces: list[bytes] = []
    while block := stream.read(BLOCK_BYTES):
        cut = block.rfind(b"\n") + 1
        if carriage_returns:
            # One at the block's very end may be half of a line end, also with NULs or a mark behind it, which go.
            sure = len(block.rstrip(b"\0\xef\xbb\xbf"))
            cut = max(cut, block.rfind(b"\r", 0, max(0, sure - 1)) + 1)
        if cut:
            yield _drained(pieces, block[:cut])
        pieces.append(block[cut:])
    if any(pieces):
        yield _drained(pieces, b"")


def _drained(pieces: list[bytes], last: bytes) -> bytes:
    """All pieces as one, and the list empty: a line may be as long as the file."""
    whole = b"".join([*pieces, last])
    pieces.clear()
    return whole
