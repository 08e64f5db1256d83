"""wikiextractor's files → documents: what stands between `<doc id=… title=…>` and `</doc>`.

In: a path, maybe a range of its bytes that begins and ends behind articles, and the policy for what is no UTF-8. Out:
a document an article. What always holds: every line of text is in a document, or the file is refused with the line's
number, also where it ends inside one.

An article's first line repeats its title. It is no sentence of the text and is left out, as the well-known
preparations of Wikipedia for BERT do; an article without text comes as an empty document. wikiextractor writes
the text escaped for HTML (`R&amp;D`, `&lt;br&gt;`), which is undone, once: what is left is what the article holds.
Files of its `--json` are JSON Lines; `article_text` makes their texts the same documents.

Example:
    for parsed in wikiextractor_documents("AA/wiki_00", "error"): ...
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.corpus.compressed import ByteRange
from pipeline.corpus.documents import canonical
from pipeline.corpus.formats import DOCUMENT_BEGINS
from pipeline.corpus.text_files import Parsed, lines_before, parsed_lines, read_lines
from pipeline.corpus.utf8 import Policy, is_broken
from pipeline.errors import InputError

_DOCUMENT_ENDS = "</doc>"
_TITLE = re.compile(r' title="(.*)">$')
# What Python's html.escape writes; the 2,000 other entities are the article's own words.
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&#39;": "'"}
_ENTITY = re.compile("|".join(_ENTITIES))
_JSON_KEYS = {"id", "url", "title", "text"}


def wikiextractor_documents(
    path: str, policy: Policy, byte_range: ByteRange | None = None
) -> Iterator[Parsed]:
    """The articles of a file, or of a range of it.

    Raises InputError where a line stands outside of an article, or the last one isn't ended.
    """
    title: str | None = None  # None: outside of an article
    began, held, broken = 0, list[str](), False
    for block in read_lines(path, policy, byte_range):
        for number, line in enumerate(block.lines, start=block.first):
            stripped = line.strip()
            if not stripped:
                continue
            if stripped.startswith("<doc ") and DOCUMENT_BEGINS.fullmatch(stripped):
                if title is not None:
                    before = lines_before(path, byte_range)
                    raise InputError(
                        f"{path}: line {before + number} begins an article inside the one of line {before + began}, "
                        f"which lacks its {_DOCUMENT_ENDS}; extract it anew"
                    )
                found = _TITLE.search(stripped)
                title, began, held, broken = found[1].strip() if found else "", number, [], False
            elif title is None:
                line_number = lines_before(path, byte_range) + number
                raise InputError(
                    f"{path}: line {line_number} stands outside of <doc …> and {_DOCUMENT_ENDS} "
                    f"({stripped[:40]!r}); it is no file of wikiextractor's (--format names another)"
                )
            elif stripped == _DOCUMENT_ENDS:
                yield parsed_lines([_unescaped(each) for each in held], broken)
                title = None
            elif held or stripped != title:
                held.append(stripped)
                broken = broken or (block.broken and is_broken(stripped))
            else:
                title = ""  # met: once only, should the text repeat it
    if title is not None:
        line_number = lines_before(path, byte_range) + began
        raise InputError(
            f"{path} ends inside the article that line {line_number} begins; copy or extract it anew"
        )


def article_text(found: Mapping[str, Any], text: str) -> str:
    """The `text` of a JSON object as the article holds it, where the object is one of wikiextractor's.

    Its release 3 escapes JSON's text, too; its releases before begin it with the title and a blank line.
    """
    title, url = found.get("title"), found.get("url")
    if found.keys() - {"revid"} != _JSON_KEYS or not isinstance(title, str) or not isinstance(url, str):
        return text
    if not url.endswith(f"?curid={found['id']}"):
        return text
    return "" if text == f"{title}\n" else _unescaped(text.removeprefix(f"{title}\n\n"))


def _unescaped(text: str) -> str:
    if "&" not in text:
        return text
    return canonical(_ENTITY.sub(lambda found: _ENTITIES[found[0]], text))
