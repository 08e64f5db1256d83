"""MB/s of sharding on one core, beside its floor and the published algorithm run plainly.

In: a corpus (default: the docstrings of Python's own library) and a vocabulary (default: trained on it).
Out, all from one run on the same documents:
  floor      Hugging Face `tokenizers`' encode_batch alone, on sentences already cut, nothing kept
  bertpipe   `bertpipe shard` with one worker: read, hash, segment, tokenise, pair, shuffle, write
  plain      the published way: `transformers`' tokeniser a sentence, lists of tokens, the published pairs, on
             sentences already cut; unlike the published code it masks and writes nothing

Example:
    python benchmarks/sharding.py corpus/*.parquet --vocab VOCAB --megabytes 4
"""

import argparse
import ast
import os
import random
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# One core each: the tokeniser's threads are off in all three.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from pipeline.corpus.readers import ReadOptions, read_documents
from pipeline.corpus.sentences import segment
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocab import VocabConfig
from pipeline.corpus.vocab import run as train_vocabulary
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary, save_vocabulary

_ROUNDS = 3


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        texts = _texts(options.corpus, options.megabytes * 1e6)
        corpus = Path(scratch, "corpus.txt")
        corpus.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
        vocabulary = _vocabulary(options.vocab, str(corpus), scratch)
        size = sum(len(text.encode()) for text in texts) / 1e6
        print(
            f"{len(texts):,} documents, {size:.2f} MB, {vocabulary.size:,} tokens, best of {_ROUNDS} rounds"
        )
        sentences = [segment(text, "en") for text in texts]
        outputs = iter(range(_ROUNDS))
        contestants: dict[str, Callable[[], object]] = {
            "floor": lambda: _floor(vocabulary, sentences),
            "bertpipe": lambda: _ours(str(corpus), scratch, next(outputs)),
            "plain": lambda: _plain(vocabulary, sentences),
        }
        # In turn, so that a slow spell of the machine hits all three.
        best = dict.fromkeys(contestants, float("inf"))
        for _ in range(_ROUNDS):
            for name, work in contestants.items():
                began = time.perf_counter()
                work()
                best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name:<10}{size / seconds:>8.2f} MB/s {best['floor'] / seconds:>8.2f} of the floor")
    print(f"bertpipe is {best['plain'] / best['bertpipe']:.1f} times as fast as the plain way")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="*", help="files or folders; default: Python's docstrings")
    parser.add_argument("--vocab", help="a vocabulary's folder; default: 8,192 tokens of the corpus")
    parser.add_argument("--megabytes", type=float, default=2.0, help="how much of the corpus to take")
    return parser.parse_args()


def _texts(corpus: list[str], limit: float) -> list[str]:
    if corpus:
        splits = find_splits(corpus)
        found = (document.text for split in splits for document in read_documents(split, ReadOptions()))
    else:
        found = _docstrings()
    texts, taken = [], 0
    for text in found:
        if text:
            texts.append(text)
            taken += len(text.encode())
            if taken >= limit:
                break
    return texts


def _docstrings() -> Iterator[str]:
    """One document a module: all its docstrings, a paragraph a line."""
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


def _vocabulary(folder: str | None, corpus: str, scratch: str) -> Vocabulary:
    if folder is not None:
        found = load_vocabulary(folder)
    else:
        found = train_vocabulary(VocabConfig(corpus=(corpus,), output=f"{scratch}/trained", size=8192))
    save_vocabulary(found, f"{scratch}/vocab")
    return found


def _floor(vocabulary: Vocabulary, sentences: list[list[str]]) -> None:
    for document in sentences:
        vocabulary.tokenizer.encode_batch(document, add_special_tokens=False)


def _ours(corpus: str, scratch: str, index: int) -> None:
    stderr, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115
    try:
        shard(ShardConfig(corpus=(corpus,), output=f"{scratch}/{index}", vocab=f"{scratch}/vocab", workers=1))
    finally:
        sys.stderr.close()
        sys.stderr = stderr


def _plain(vocabulary: Vocabulary, sentences: list[list[str]], max_seq_length: int = 128) -> int:
    """The published algorithm as it is told: lists of token strings, popped one by one. Returns pairs."""
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast(tokenizer_object=vocabulary.tokenizer)
    draw = random.Random(12345)
    documents = [
        [tokens for text in document if (tokens := tokenizer.tokenize(text))] for document in sentences
    ]
    documents = [document for document in documents if document]
    draw.shuffle(documents)
    longest, pairs = max_seq_length - 3, 0
    for place, document in enumerate(documents):
        target = draw.randint(2, longest) if draw.random() < 0.1 else longest
        chunk: list[list[str]] = []
        length = index = 0
        while index < len(document):
            chunk.append(document[index])
            length += len(document[index])
            if index == len(document) - 1 or length >= target:
                cut = draw.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
                a = [token for sentence in chunk[:cut] for token in sentence]
                b: list[str] = []
                if len(chunk) == 1 or draw.random() < 0.5:
                    for _ in range(10):
                        other = draw.randrange(len(documents))
                        if other != place:
                            break
                    for sentence in documents[other][draw.randrange(len(documents[other])) :]:
                        b.extend(sentence)
                        if len(b) >= target - len(a):
                            break
                    index -= len(chunk) - cut
                else:
                    b = [token for sentence in chunk[cut:] for token in sentence]
                while len(a) + len(b) > longest:
                    longer = a if len(a) > len(b) else b
                    del longer[0 if draw.random() < 0.5 else -1]
                tokenizer.convert_tokens_to_ids(["[CLS]", *a, "[SEP]", *b, "[SEP]"])
                pairs += 1
                chunk, length = [], 0
            index += 1
    return pairs


if __name__ == "__main__":
    main()
