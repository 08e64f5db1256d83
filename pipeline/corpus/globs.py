"""Patterns → the files they stand for, on disks and behind URIs by the same rules.

In: a pattern with `*`, `?`, `[a-z]`, `[!a]`, or `**` for any folders. Out: the files it matches, sorted, with all
files of the folders it matches. What always holds: names that start with a dot are matched only where the pattern
spells the dot; a folder is looked through once for each part of the pattern, whatever circles its links make.
(The library's own `glob` follows two links to a folder above 2 ** 40 times.)

In a URI `?` opens its options, and a percent sign makes any character one of a name.

Example:
    matched_files("corpus/**/*.txt.gz")
"""

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote

from pipeline import storage
from pipeline.errors import InputError

_MAGIC = re.compile(r"[*?\[]")
_ESCAPED_MAGIC = re.compile(r"%(2A|3F|5B)", re.IGNORECASE)

_Parts = tuple[str, ...]


def fixed_folder(pattern: str) -> str:
    """Up to the last folder without a wildcard: all that a listing has to look through; "" for this one."""
    place, options = storage.options_apart(pattern)
    literal = _MAGIC.split(place, maxsplit=1)[0]
    folder = literal.rpartition("/")[0]
    return (folder or literal[:1]) + options if literal.startswith("/") else folder + options


def matched_files(pattern: str) -> list[str]:
    """The files that `pattern` matches, and those in the folders that it matches.

    Raises InputError where a URI's wildcard stands in the name of its host or bucket.
    """
    folder = fixed_folder(pattern)
    place, base = (storage.options_apart(each)[0] for each in (pattern, folder))
    rest = place.removeprefix(base).lstrip("/")
    if not storage.is_uri(pattern):
        return sorted(set(_on_disk(base, _parts(rest), set())))
    if not storage.is_uri(folder):
        raise InputError(f"{pattern}: a wildcard stands in the bucket's or host's name; spell that out")
    parts = _parts(unquote(_ESCAPED_MAGIC.sub(r"[%\1]", rest)))
    hidden = any(part.startswith(".") for part in parts)
    return [
        path
        for path in storage.list_files(folder, hidden=hidden)
        if _matches(parts, _parts(unquote(storage.options_apart(path)[0].removeprefix(base))))
    ]


def _parts(path: str) -> _Parts:
    # A pattern that ends with a slash matches folders: whatever is in them.
    ends = ("*",) if path.endswith("/") else ()
    parts = (*(part for part in path.split("/") if part), *ends)
    return parts[:-1] if parts[-2:] == ("**", "*") else parts  # the same files


def _fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))


def _matches(pattern: Sequence[str], path: Sequence[str]) -> bool:
    """Whether a listed file is matched, or lies in a folder that is."""
    if not pattern:
        return not any(name.startswith(".") for name in path)
    if pattern[0] == "**" and _matches(pattern[1:], path):
        return True
    if not path:
        return False
    if pattern[0] == "**":
        return not path[0].startswith(".") and _matches(pattern, path[1:])
    return _fits(path[0], pattern[0]) and _matches(pattern[1:], path[1:])


def _on_disk(folder: str, pattern: _Parts, seen: set[tuple[int, int, int]]) -> Iterator[str]:
    """The files that `pattern` matches in `folder`; `seen`: folders, by how much of the pattern was left."""
    if os.path.isdir(folder or "."):
        status = os.stat(folder or ".")
        place = (status.st_dev, status.st_ino, len(pattern))
        if place in seen:
            return
        seen.add(place)
        if pattern in ((), ("**",)):
            for path in storage.list_files(folder or ".", hidden=False):
                yield path if folder else path.removeprefix("./")
            return
    elif pattern:
        return
    else:
        yield folder
        return
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        yield from _on_disk(folder, rest, seen)
        for name in sorted(os.listdir(folder or ".")):
            path = os.path.join(folder, name)
            if not name.startswith(".") and os.path.isdir(path):
                yield from _on_disk(path, pattern, seen)
    elif _MAGIC.search(first):
        for name in sorted(os.listdir(folder or ".")):
            if _fits(name, first):
                yield from _on_disk(os.path.join(folder, name), rest, seen)
    elif os.path.lexists(path := os.path.join(folder, first)):
        yield from _on_disk(path, rest, seen)
