"""JSON Lines → documents: one object a line, whose text is a string or a list of sentences.

In: a path, maybe a range of its bytes made of whole lines, the keys to look at, and the policy for what is no UTF-8.
Out: a document an object. What always holds: a line that is no such object is an error with its number and the
remedy; of several keys the first counts under which something stands; null is an empty document, null in a list is
left out, and a line of white space is no document. What is no UTF-8 matters in the text alone, not elsewhere in the
object.

Read more leniently than the standard: raw tabs, line ends and NULs in a string are text, as many exports write them.

A key is first taken as it stands and then as a path, so `doc.text` finds {"doc.text": …} and {"doc": {"text": …}}.

Example:
    for parsed in json_documents("corpus/a.jsonl.gz", ("text", "sentences"), "error"): ...
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.corpus.compressed import ByteRange, open_plain
from pipeline.corpus.documents import canonical, single_spaced
from pipeline.corpus.text_files import (
    Parsed,
    at_beginning,
    invalid_utf8,
    lines_before,
    refuse_wide,
    stripped_lines,
    whole_lines,
)
from pipeline.corpus.utf8 import Policy, decode_marked, first_invalid, is_broken, mend
from pipeline.corpus.wikiextractor import article_text
from pipeline.errors import InputError

_NO_TEXT = ("\ufeff", "\0")  # joined files have a mark where each begins; padding and torn pages have NULs
_NAMED_KEYS = 8  # of an object, in an error


class _Place(NamedTuple):
    """A line as errors name it; `number` is that in what is read, and its number in the file is counted only now."""

    path: str
    byte_range: ByteRange | None
    number: int

    def __str__(self) -> str:
        before = lines_before(self.path, self.byte_range, carriage_returns=False)
        return f"{self.path}: line {before + self.number}"


def json_documents(
    path: str, keys: Sequence[str], policy: Policy, byte_range: ByteRange | None = None
) -> Iterator[Parsed]:
    """The documents of a JSON Lines file, or of a range of it. Raises InputError where a line holds none."""
    number = 0
    with open_plain(path, byte_range) as stream:
        for block in whole_lines(stream, carriage_returns=False):
            if number == 0 and at_beginning(byte_range):
                refuse_wide(path, block)
            for line in block.removesuffix(b"\n").split(b"\n"):
                number += 1
                where = _Place(path, byte_range, number)
                if (parsed := _document(where, line, keys, policy)) is not None:
                    yield parsed


def _document(where: _Place, line: bytes, keys: Sequence[str], policy: Policy) -> Parsed | None:
    """The document of a line; None where that is blank."""
    try:
        text, marked = line.decode(), False
    except UnicodeDecodeError:
        text, marked = decode_marked(line), True
    for unwanted in _NO_TEXT:
        text = text.replace(unwanted, "")
    if not text or text.isspace():
        return None
    found = _parsed(where, text)
    del text  # beside the value: a document may be large
    value, key = _value(where, found, keys)
    texts = _texts(where, value, key)
    # Lone surrogates are bytes that are no UTF-8, or were spelled out; most lines have neither.
    bad = [each for each in texts if is_broken(each)] if marked or b"\\u" in line else []
    if bad and policy == "error":
        if marked and (byte := first_invalid(bad[0])) is not None:
            raise invalid_utf8(where, byte)
        raise InputError(
            f"{where}: {key!r} holds half a surrogate pair, which is no UTF-8; write the file anew, or choose "
            "--invalid-utf8 replace or skip"
        )
    if bad:
        texts = [mend(each) for each in texts]
    if texts and key == "text":
        texts = [article_text(found, each) for each in texts]
    return parsed_texts(texts, sentences=isinstance(value, list), broken=bool(bad))


def _texts(where: _Place, value: Any, key: str) -> list[str]:
    """The texts that `value`, found under `key`, stands for."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    texts = [each for each in value if each is not None] if isinstance(value, list) else []
    odd = next((each for each in texts if not isinstance(each, str)), None)
    if isinstance(value, list) and odd is None:
        return texts
    held = _kind(value) if odd is None else f"a list with {_kind(odd)} in it"
    raise InputError(f"{where}: {key!r} holds {held}, not a text or a list of texts (--text-key)")


def parsed_texts(texts: Sequence[str], *, sentences: bool, broken: bool) -> Parsed:
    """The document of one text, or of texts that are sentences."""
    if sentences:
        lines = ["".join(single_spaced(canonical(text))) for text in texts]
        return Parsed(lines=[line for line in lines if line], sentences=True, broken=broken)
    lines = [line for text in texts for line in stripped_lines(canonical(text))]
    return Parsed(lines=lines, broken=broken)


def _parsed(where: _Place, text: str) -> dict[str, Any]:
    try:
        # Python refuses whole numbers of over 4,300 digits, which are nothing to us.
        found = json.loads(text, strict=False, parse_int=float)
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply; leave it out") from error
    except ValueError as error:
        said = str(error)
        if isinstance(error, json.JSONDecodeError):
            said = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        place, hint = str(where), ""
        if place.endswith(": line 1") and text.lstrip().startswith("["):
            hint = " (one list for all: jq -c '.[]' writes an object a line)"
        raise InputError(f"{place} is no JSON: {said}; each line holds one whole object{hint}") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} is {_kind(found)}, not an object; each line holds one whole object")
    return found


def _value(where: _Place, found: dict[str, Any], keys: Sequence[str]) -> tuple[Any, str]:
    """What stands under the first key with something under it, and that key; None where all hold null."""
    nothing: str | None = None
    for key in keys:
        try:
            value = found[key] if key in found else _followed(found, key)
        except LookupError:
            continue
        if value is not None:
            return value, key
        nothing = key
    if nothing is None:
        named = ", ".join(repr(key) for key in list(found)[:_NAMED_KEYS]) or "none"
        more = ", …" if len(found) > _NAMED_KEYS else ""
        wanted = " and no ".join(repr(key) for key in keys)
        raise InputError(f"{where} has no {wanted}; its keys are {named}{more} (--text-key names the text's)")
    return None, nothing


def _followed(found: Any, path: str) -> Any:
    """What stands at the dotted `path`, null on the way being null at its end. Raises KeyError."""
    for part in path.split("."):
        if found is None:
            return None
        if not isinstance(found, dict):
            raise KeyError(part)
        found = found[part]
    return found


def _kind(value: Any) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list"}
    return "null" if value is None else names.get(type(value), "an object")
