"""Bytes that are no UTF-8: what is done about them.

In: bytes, or text with lone surrogates, and the user's policy. Out: text that is UTF-8, and whether it was so from
the start. What always holds: `replace` gives what `bytes.decode("utf-8", "replace")` gives, one U+FFFD for each
broken sequence; nothing else is touched.

Lone surrogates mark the places in between: Python's `surrogateescape` turns a byte that is no UTF-8 into one,
and JSON can spell one out ("\\ud800" without its second half).

Example:
    >>> text = decode_marked(b"caf\\xe9")
    >>> is_broken(text), mend(text)
    (True, 'caf\ufffd')
"""

import re
from typing import Literal, get_args

from pipeline.errors import InputError

Policy = Literal["error", "replace", "skip"]

REPLACEMENT = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")
_BYTES = re.compile("[\udc80-\udcff]")  # as `surrogateescape` marks them
_SPELLED_OUT = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def check_policy(policy: str) -> None:
    """Raise InputError where `policy` is none."""
    if policy not in get_args(Policy):
        raise InputError(f"invalid_utf8 is {policy!r}; it must be one of {', '.join(get_args(Policy))}")


def decode_marked(data: bytes) -> str:
    """`data` as text, each byte that is no UTF-8 as a lone surrogate."""
    return data.decode("utf-8", "surrogateescape")


def is_broken(text: str) -> bool:
    """Whether `text` holds a lone surrogate, so that it is no UTF-8."""
    return _SURROGATES.search(text) is not None


def first_invalid(text: str) -> int | None:
    """The first byte of `text` from `decode_marked` that is no UTF-8; None where it has none."""
    found = _BYTES.search(text)
    return None if found is None else ord(found[0]) - 0xDC00


def mend(text: str) -> str:
    """`text` with U+FFFD for what is no UTF-8, be it marked by `decode_marked` or spelled out."""
    text = _SPELLED_OUT.sub(REPLACEMENT, text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
