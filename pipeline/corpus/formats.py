"""What a file of the corpus holds: told by its name, by how it begins, or by the user.

In: a path, and the format asked for. Out: the kind of reader that takes it. What always holds: a name that says
it decides alone, so a `.txt` is text whatever stands in it; only files whose name says nothing (`wiki_00`,
`part-00000.gz`) or too little (`.json`) are opened, and what isn't recognised is no part of a corpus.

Example:
    recognise("AA/wiki_00", "auto")  # 'wikiextractor', where it begins with <doc id=…>
"""

import json
import re
from typing import Literal, get_args

from pipeline import storage
from pipeline.corpus.compressed import SUFFIXES, bare_name, open_plain
from pipeline.errors import InputError

Kind = Literal["text", "jsonl", "parquet", "wikiextractor"]
Format = Literal["auto", "text", "jsonl", "parquet", "wikiextractor"]

_BY_NAME: dict[str, Kind] = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_PARQUET = ".parquet"
KNOWN = f"{', '.join(_BY_NAME)} (also with {', '.join(SUFFIXES)}), {_PARQUET} and wikiextractor's wiki_00"

DOCUMENT_BEGINS = re.compile(r'<doc id="[^"]*".*>')
"""The line before a document of wikiextractor's."""

_HEAD_BYTES = 1 << 16


def check_format(format: str) -> None:
    """Raise InputError where `format` is none."""
    if format not in get_args(Format):
        raise InputError(f"format is {format!r}; it must be one of {', '.join(get_args(Format))}")


def recognise(path: str, format: Format) -> Kind | None:
    """The kind of the file at `path`; None where it is none that `auto` knows.

    Raises InputError where it has to be opened for that and can't be read.
    """
    if format != "auto":
        return format
    name = storage.last_name(path).lower()
    if name.endswith(_PARQUET):
        return "parquet"
    name = bare_name(name)
    for suffix, kind in _BY_NAME.items():
        if name.endswith(suffix):
            return kind
    # Much JSONL is named .json (Common Crawl's C4 is); a file that holds one JSON value is, too, and is none.
    return _by_beginning(path) if "." not in name or name.endswith(".json") else None


def _by_beginning(path: str) -> Kind | None:
    with open_plain(path) as stream:
        head = stream.read(_HEAD_BYTES)
    first, line_end, _ = head.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    if first.startswith(b"<doc ") and DOCUMENT_BEGINS.fullmatch(first.decode("utf-8", "replace").strip()):
        return "wikiextractor"
    if not first.startswith(b"{"):
        return None
    if not line_end and len(head) == _HEAD_BYTES:  # an object on one very long line
        return "jsonl"
    try:
        json.loads(first.decode("utf-8", "replace"), strict=False, parse_int=float)  # as they will be read
    except (ValueError, RecursionError):
        return None
    return "jsonl"
