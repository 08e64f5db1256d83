"""Text for benchmarks: documents of real text, and copies of them that are documents of their own.

In: texts. Out: copy after copy of them, as many as are asked for, and files of them. What always holds: copy 0 is
the text itself, copy k a function of text and k; no two documents are equal; distinct words grow with the copies
about as in natural text (35 MB of English hold 126,000; 10 copies 2.3 times as many, 100 copies 14 times), since a
coined word takes the place of every 100th word that is long enough: the beginning of that word and the ending of the
one k such words before.

Example:
    write_texts("corpus.txt", copy_of(texts, 3))
"""

import ast
import sysconfig
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

_EVERY = 100  # words, of which one is coined anew if it is long enough
_LONG = 5  # letters
_MOST_COPIES = 1000


def docstrings() -> Iterator[str]:
    """English that every Python carries: a document a module, all its docstrings, a paragraph a line."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        paragraphs = [" ".join(part.split()) for text in docs if text for part in text.split("\n\n")]
        if sum(map(len, paragraphs)) > 500:
            yield "\n".join(part for part in paragraphs if part)


def copy_of(texts: Iterable[str], number: int) -> Iterator[str]:
    """The `number`-th copy of each text; the 0th is the text. Raises ValueError above a thousand copies."""
    if number > _MOST_COPIES:
        raise ValueError(f"copy {number:,} was asked for, and {_MOST_COPIES:,} are made at most")
    if number == 0:
        yield from texts
        return
    recent: deque[str] = deque(maxlen=_MOST_COPIES)
    for text in texts:
        words = text.split(" ")
        for place in range(number % _EVERY, len(words), _EVERY):
            word = words[place]
            if len(word) >= _LONG and word.isalpha():
                recent.append(word)
                ending = recent[-1 - number % len(recent)]
                words[place] = word[: len(word) // 2 + 1] + ending[len(ending) // 2 :]
        # Short documents may have no such word: this tells all of them apart.
        yield f"{' '.join(words)}\nThis is copy {number}."


def grow(texts: Iterable[str], limit: float) -> list[str]:
    """The texts, then copies of them, until they come to `limit` bytes of UTF-8."""
    first = take((text for text in texts if text), limit)
    grown = list(first)
    for number in count(1):
        left = limit - sum(len(text.encode()) for text in grown)
        if left <= 0:
            break
        grown += take(copy_of(first, number), left)
    return grown


def take(texts: Iterable[str], limit: float) -> list[str]:
    """As many of the texts as it takes to come to `limit` bytes of UTF-8, or all."""
    taken, size = [], 0
    for text in texts:
        taken.append(text)
        size += len(text.encode())
        if size >= limit:
            break
    return taken


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write documents with a blank line between them."""
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(text + "\n\n")
