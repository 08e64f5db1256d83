"""A vocabulary of whole words and corpora made of them, for tests of what comes after tokenising."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import pieces
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sharding import ShardConfig, run
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary

WORDS = [a + b for a in ("ba", "ke", "lo", "mu", "ni", "po", "ru", "sa", "te", "wi") for b in "bdgklmnprt"]
SPECIALS = ("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

LINES = ReadOptions(sentences="lines")

Documents = list[list[str]]


@pytest.fixture(scope="session")
def word_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vocabulary's folder whose tokens are the words of `make_documents`, and the full stop."""
    folder = str(tmp_path_factory.mktemp("vocabulary"))
    save_vocabulary(Vocabulary(tokens=(*SPECIALS, ".", *WORDS), cased=False), folder)
    return folder


@pytest.fixture(scope="session")
def make_documents() -> Callable[..., Documents]:
    """`make_documents(count, seed=…)`: documents of 1 to 20 sentences of 2 to 30 words."""

    def make(count: int, *, seed: int = 0) -> Documents:
        draw = random.Random(seed)
        return [
            [" ".join(draw.choices(WORDS, k=draw.randint(2, 30))) + "." for _ in range(draw.randint(1, 20))]
            for _ in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def write_text() -> Callable[[Path, Documents], str]:
    """Write documents as text, a sentence a line and a blank line between documents; returns the path."""

    def write(path: Path, documents: Documents) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join("".join(f"{line}\n" for line in lines) for lines in documents))
        return str(path)

    return write


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_documents: Any, write_text: Any) -> Path:
    """Four files of 60 documents."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(4):
        write_text(folder / f"part-{index}.txt", make_documents(60, seed=index))
    return folder


@pytest.fixture
def shard(
    corpus: Path, word_vocabulary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Manifest]:
    """Run the stage on the corpus into tmp_path / "shards", in this process, unless told otherwise.

    Pieces are small, so that each file is one.
    """
    monkeypatch.setattr(pieces, "_LEAST_BYTES", 1 << 15)

    def make(**changed: Any) -> Manifest:
        config: dict[str, Any] = {
            "corpus": (str(corpus),),
            "output": str(tmp_path / "shards"),
            "vocab": word_vocabulary,
            "max_seq_length": 64,
            "shards": 3,
            "workers": 1,
            "read": LINES,
        }
        return run(ShardConfig(**(config | changed)))

    return make


@pytest.fixture(scope="session")
def expected(
    corpus: Path, word_vocabulary: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files that `shard()` makes; here in one piece."""
    output = tmp_path_factory.mktemp("expected") / "shards"
    settings: dict[str, Any] = {"max_seq_length": 64, "shards": 3, "workers": 1, "read": LINES}
    run(ShardConfig(corpus=(str(corpus),), output=str(output), vocab=word_vocabulary, **settings))
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
