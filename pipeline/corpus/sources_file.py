"""A YAML file of sources → `Source`s.

In: the file of `--sources`, and what the command line says of all of them. Out: its sources. What always holds: it is
read as strictly as recipes are: an unknown key is refused with the nearest known one, a value of the wrong type with
the type wanted, a key that stands twice; an error names the file and the dotted key.

    sources:
      wikipedia:
        corpus: [dumps/*.parquet]
        weight: 0.5
        text_key: body
      books: {corpus: books/, language: de, filter: [length=200, urls]}

A source's keys are the command line's options, which are the defaults of those that don't say otherwise; `filter` and
`redact` that a source has stand in the place of the command line's, not beside them. Relative paths are relative to the
current directory, as on the command line.

Example:
    read_sources("sources.yaml", {"language": "en", "filter": ("urls",)})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from pipeline import storage
from pipeline.configuration import build, load_yaml, unshared
from pipeline.corpus.filters import FilterOptions
from pipeline.corpus.formats import Format
from pipeline.corpus.readers import ReadOptions, Sentences
from pipeline.corpus.sources import Source
from pipeline.corpus.utf8 import Policy
from pipeline.errors import InputError

_TOP = "sources"
_LISTS = ("corpus", "filter", "redact")  # a single one needs no brackets


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The keys of a source; see `Source` and `ReadOptions`."""

    corpus: tuple[str, ...]
    weight: float = 1.0
    language: str = "en"
    words: bool = False
    sentences: Sentences = "paragraphs"
    format: Format = "auto"
    text_key: str | None = None
    invalid_utf8: Policy = "error"
    filter: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()


def read_sources(path: str, defaults: Mapping[str, Any]) -> tuple[Source, ...]:
    """The sources that the YAML file `path` lists.

    defaults: values of a source's keys where it has none itself
    Raises InputError naming file, key, value and remedy.
    """
    try:
        with storage.open_read(path) as stream:
            value = load_yaml(stream)
    except FileNotFoundError:
        raise InputError(f"{path} of --sources does not exist; name a YAML file of sources") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where} is no YAML: {getattr(error, 'problem', error)}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        return tuple(_source(name, stated, defaults) for name, stated in _entries(value).items())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _entries(value: Any) -> dict[str, Any]:
    """The sources' keys by their names, as they stand there."""
    if not isinstance(value, dict) or not value:
        raise InputError(f"it holds no sources; list them by name under the key {_TOP}")
    if wrong := [name for name in value if name != _TOP]:
        raise InputError(
            f"unknown key {wrong[0]}; the only one known is {_TOP}, under which sources stand by name"
        )
    entries = value[_TOP]
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{_TOP} is {entries!r}; it must hold sources by name, each with a corpus")
    for name in entries:
        if not isinstance(name, str):
            raise InputError(f"{_TOP}.{name}: a source's name is text; write it in quotes")
        if not name.strip() or not name.isprintable():
            raise InputError(f"{_TOP} names one {name!r}; a source's name is text on one line")
    return unshared(entries)


def _source(name: str, stated: Any, defaults: Mapping[str, Any]) -> Source:
    where = f"{_TOP}.{name}"
    if isinstance(stated, dict):
        stated = {**defaults, **stated}
        for key in _LISTS:
            if isinstance(stated.get(key), str):
                stated[key] = [stated[key]]
    entry: _Entry = build(_Entry, stated, where)
    try:
        return Source(
            name=name,
            corpus=entry.corpus,
            weight=entry.weight,
            language=entry.language,
            words=entry.words,
            read=ReadOptions(
                sentences=entry.sentences,
                format=entry.format,
                text_key=entry.text_key,
                invalid_utf8=entry.invalid_utf8,
                filters=FilterOptions(filters=entry.filter, redactions=entry.redact),
            ),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
