"""The disk that shards take, told before anything is written.

In: the text that is expected, and the settings that count. Out: a line for a person. What always holds: nothing is
refused for it, since the text is an estimate and a full disk loses nothing.

Example:
    say(disk_notice("SHARDS", 35_459_452, copies=1, wide=False))
    # about 23 MB of spills, removed as they become 24 MB of shards; 70 GB free
"""

import os
import shutil

# Measured on English, Chinese, Korean, Hindi and German with vocabularies of 8,192 to 30,522 tokens: 0.4 to 0.7 bytes
# a byte of text in each. Twice that with token ids of four bytes.
_PER_TEXT_BYTE = 0.65
_WORTH_TELLING = 10e6  # bytes
_FREED_IN = 8  # parts in which a large corpus's spills are removed (`runs`)


def disk_notice(output: str, text_bytes: int, *, copies: float, wide: bool) -> str | None:
    """What will be written, what is free, and what to do where that may not be enough; None where it is little.

    text_bytes: of all documents
    copies: sets of pairs that each gives, on average
    wide: whether token ids take four bytes instead of two
    """
    spills = text_bytes * _PER_TEXT_BYTE * (2 if wide else 1)
    shards = spills * copies
    free = shutil.disk_usage(_existing(output)).free
    said = f"about {_size(spills)} of spills, removed as they become {_size(shards)} of shards; {_size(free)} free"
    if max(spills, shards) + spills / _FREED_IN <= free:
        return said if spills >= _WORTH_TELLING else None
    return f"{said}, which may not be enough: a full disk loses nothing, but name an output with more room"


def _existing(folder: str) -> str:
    while not os.path.exists(folder):
        folder = os.path.dirname(os.path.abspath(folder))
    return folder


def _size(count: float) -> str:
    for unit in ("MB", "GB", "TB"):
        count /= 1000 if unit != "MB" else 1e6
        if count < 1000:
            break
    return f"{count:,.0f} {unit}" if count >= 10 else f"{count:,.1f} {unit}"
