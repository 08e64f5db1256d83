"""The vocabulary: BERT's tokens, their ids, and the folder that holds them.

In: a folder with `vocab.txt` (one token a line, the line's number from 0 is its id) and, where bertpipe or
Hugging Face made it, `tokenizer.json`. Out: a `Vocabulary`.
What always holds: the five special tokens are there and no token stands twice; `tokenizer.json` and
`vocab.txt` say the same; two vocabularies with equal `hash` give equal ids for every text. `vocab.txt` is
written last, so a folder that has it is whole.

Example:
    vocabulary = load_vocabulary("VOCAB/")
    vocabulary.tokens[vocabulary.mask_id]  # '[MASK]'
"""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline import storage
from pipeline.errors import InputError
from pipeline.lineage import hash_json

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_FILE = "vocab.txt"
TOKENIZER_FILE = "tokenizer.json"
LINEAGE_FILE = "lineage.json"

_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """BERT's tokens in the order of their ids, and whether upper case and accents count (`cased`).

    Raises InputError where a special token is missing or a token stands twice. Pickles small: the tokeniser
    is made anew in each process.
    """

    tokens: tuple[str, ...]
    cased: bool

    def __post_init__(self) -> None:
        _check(self.tokens)

    def __getstate__(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "cased": self.cased}

    @property
    def size(self) -> int:
        """The number of tokens."""
        return len(self.tokens)

    @cached_property
    def hash(self) -> str:
        """What shards and checkpoints remember the vocabulary by."""
        return hash_json({"cased": self.cased, "tokens": self.tokens})

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that are never masked and never drawn: the five special tokens' and every [unusedN]'s."""
        return tuple(i for i, t in enumerate(self.tokens) if t in SPECIALS or _UNUSED.fullmatch(t))

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """Ids of the [unusedN] tokens, places for pieces added later, ascending."""
        return tuple(i for i, t in enumerate(self.tokens) if _UNUSED.fullmatch(t))

    @cached_property
    def continuing_ids(self) -> tuple[int, ...]:
        """Ids of the `##` pieces, which continue the word before them."""
        return tuple(i for i, t in enumerate(self.tokens) if t.startswith("##") and t != "##")

    @cached_property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return self.tokens.index("[PAD]")

    @cached_property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return self.tokens.index("[UNK]")

    @cached_property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self.tokens.index("[CLS]")

    @cached_property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self.tokens.index("[SEP]")

    @cached_property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self.tokens.index("[MASK]")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """BERT's tokeniser over these tokens, as Hugging Face builds it."""
        ids = {token: index for index, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not self.cased)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece(prefix="##")
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        tokenizer.add_special_tokens(sorted(SPECIALS, key=self.tokens.index))
        return tokenizer


def _check(tokens: tuple[str, ...]) -> None:
    if not tokens:
        raise InputError("the vocabulary is empty; make one with bertpipe vocab")
    lines: dict[str, int] = {}
    for line, token in enumerate(tokens, start=1):
        if not token:
            raise InputError(f"line {line} of the vocabulary is empty; each line holds one token")
        if lines.setdefault(token, line) != line:
            raise InputError(f"{token!r} stands in the vocabulary on line {lines[token]} and on line {line}")
    missing = [token for token in SPECIALS if token not in lines]
    if missing:
        raise InputError(
            f"the vocabulary has no {', '.join(missing)}; BERT needs {' '.join(SPECIALS)}, one a line"
        )


def load_vocabulary(folder: str, cased: bool | None = None) -> Vocabulary:
    """The vocabulary in `folder`. A `vocab.txt` alone is uncased, unless `cased` says otherwise.

    Raises InputError where the folder or `vocab.txt` is missing, a special token is missing, a token stands
    twice, or `tokenizer.json` or `cased` contradicts.
    """
    if not storage.is_folder(folder):
        what = "is a file, not a vocabulary's folder" if storage.exists(folder) else "does not exist"
        raise InputError(f"{folder} {what}; make a vocabulary with bertpipe vocab")
    path = storage.join(folder, VOCABULARY_FILE)
    if not storage.exists(path):
        raise InputError(f"{folder} holds no {VOCABULARY_FILE}; make a vocabulary with bertpipe vocab")
    tokens = _read_tokens(path)
    from_json = _read_tokenizer(storage.join(folder, TOKENIZER_FILE), tokens)
    if cased is not None and from_json is not None and cased != from_json:
        raise InputError(
            f"{folder} holds a vocabulary that is {_casing(from_json)}, and {_casing(cased)} is asked for; "
            "leave the casing out or name another vocabulary"
        )
    chosen = next((known for known in (from_json, cased) if known is not None), False)
    try:
        return Vocabulary(tokens=tokens, cased=chosen)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _casing(cased: bool) -> str:
    return "cased" if cased else "uncased"


def _read_tokens(path: str) -> tuple[str, ...]:
    with storage.open_read(path) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is no UTF-8; write the file anew") from error
    # Not splitlines: a vocabulary may hold U+2028 and its like as tokens.
    lines = text.removesuffix("\n").split("\n") if text.strip() else []
    return tuple(line.removesuffix("\r") for line in lines)


def _read_tokenizer(path: str, tokens: tuple[str, ...]) -> bool | None:
    """The casing that `tokenizer.json` states; None where there is no such file."""
    if not storage.exists(path):
        return None
    stated = storage.read_json(path)
    remedy = f"delete {path} to go by {VOCABULARY_FILE} alone"
    try:
        vocab, normalizer = stated["model"]["vocab"], stated["normalizer"]
        lowercase = bool(normalizer["lowercase"])
        normal = (
            normalizer["type"] == "BertNormalizer"
            and normalizer.get("clean_text", True)
            and normalizer.get("handle_chinese_chars", True)
            and normalizer.get("strip_accents") in (None, lowercase)
            and stated["model"].get("type", "WordPiece") == "WordPiece"
        )
    except (KeyError, TypeError, AttributeError):
        normal, vocab, lowercase = False, {}, False
    if not normal:
        raise InputError(f"{path} is no BERT tokeniser (BertNormalizer, WordPiece); {remedy}")
    if vocab != {token: index for index, token in enumerate(tokens)}:
        raise InputError(
            f"{path} has {len(vocab)} tokens and {VOCABULARY_FILE} {len(tokens)}, and they differ; {remedy}"
        )
    return not lowercase


def save_vocabulary(vocabulary: Vocabulary, folder: str, lineage: dict[str, Any] | None = None) -> None:
    """Write the vocabulary's files into `folder`, the lineage first and `vocab.txt` last, all or none.

    Raises RunFailed where the disk refuses.
    """
    storage.make_folder(folder)
    texts: dict[str, str] = {}
    if lineage is not None:  # first: it tells what a killed run left from files of another origin
        texts[LINEAGE_FILE] = storage.json_text(lineage)
    # Through json for a layout that this file decides, not the library's release.
    texts[TOKENIZER_FILE] = storage.json_text(json.loads(vocabulary.tokenizer.to_str()))
    texts[VOCABULARY_FILE] = "".join(f"{token}\n" for token in vocabulary.tokens)
    written: list[str] = []
    try:
        for name, text in texts.items():
            path = storage.join(folder, name)
            storage.remove_temporaries(path)
            storage.write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            storage.remove(path)
        raise
