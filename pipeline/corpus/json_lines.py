"""JSON Lines → documents: one object a line, whose text is a string or a list of sentences.

In: a path, the keys to look at, and the policy for what is no UTF-8. Out: a document an object. What always
holds: a line that is no such object is an error with its number and the remedy; of several keys the first counts
under which something stands; null is an empty document, and a line of white space is none.

A key is first taken as it stands and then as a path, so `doc.text` finds {"doc.text": …} and {"doc": {"text": …}}.

Example:
    for parsed in json_documents("corpus/a.jsonl.gz", ("text", "sentences"), "error"): ...
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.corpus.compressed import open_plain
from pipeline.corpus.documents import canonical, single_spaced
from pipeline.corpus.text_files import Parsed, invalid_utf8, refuse_wide, stripped_lines, whole_lines
from pipeline.corpus.utf8 import Policy, is_broken, replace_surrogates
from pipeline.errors import InputError

_BYTE_ORDER_MARK = "\ufeff"
_NAMED_KEYS = 8  # of an object, in an error


def json_documents(path: str, keys: Sequence[str], policy: Policy) -> Iterator[Parsed]:
    """The documents of a JSON Lines file. Raises InputError where a line holds none."""
    number = 0
    with open_plain(path) as stream:
        for block in whole_lines(stream, carriage_returns=False):
            if number == 0:
                refuse_wide(path, block)
            for line in block.removesuffix(b"\n").split(b"\n"):
                number += 1
                if (parsed := _document(path, number, line, keys, policy)) is not None:
                    yield parsed


def _document(path: str, number: int, line: bytes, keys: Sequence[str], policy: Policy) -> Parsed | None:
    """The document of a line; None where that is blank."""
    where = f"{path}: line {number}"
    broken = False
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        if policy == "error":
            raise invalid_utf8(path, number, error) from error
        text, broken = line.decode("utf-8", "replace"), True
    text = text.replace(_BYTE_ORDER_MARK, "")  # joined files have one where each begins
    if not text or text.isspace():
        return None
    value, key = _value(where, _parsed(where, text), keys)
    del text  # beside the value: a document may be large
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        odd = (
            next((each for each in texts if not isinstance(each, str)), None)
            if isinstance(texts, list)
            else None
        )
        held = f"a list with {_kind(odd)} in it" if isinstance(texts, list) else _kind(value)
        raise InputError(f"{where}: {key!r} holds {held}, not a text or a list of texts (--text-key)")
    # Half a surrogate pair can only be spelled out, and most lines spell out nothing.
    if b"\\u" in line and any(is_broken(each) for each in texts):
        if policy == "error":
            raise InputError(
                f"{where}: {key!r} holds half a surrogate pair, which is no UTF-8; write the file anew, or choose "
                "--invalid-utf8 replace or skip"
            )
        texts, broken = [replace_surrogates(each) for each in texts], True
    return parsed_texts(texts, sentences=isinstance(value, list), broken=broken)


def parsed_texts(texts: Sequence[str], *, sentences: bool, broken: bool) -> Parsed:
    """The document of one text, or of texts that are sentences."""
    if sentences:
        lines = ["".join(single_spaced(canonical(text))) for text in texts]
        return Parsed(lines=[line for line in lines if line], sentences=True, broken=broken)
    lines = [line for text in texts for line in stripped_lines(canonical(text))]
    return Parsed(lines=lines, broken=broken)


def _parsed(where: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply; leave it out") from error
    except ValueError as error:
        said = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        hint = ""
        if where.endswith(": line 1") and text.lstrip().startswith("["):
            hint = " (one list for all: jq -c '.[]' writes an object a line)"
        raise InputError(f"{where} is no JSON: {said}; each line holds one whole object{hint}") from error
    if not isinstance(found, dict):
        raise InputError(f"{where} is {_kind(found)}, not an object; each line holds one whole object")
    return found


def _value(where: str, found: dict[str, Any], keys: Sequence[str]) -> tuple[Any, str]:
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
