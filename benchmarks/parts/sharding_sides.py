"""What `bertpipe shard` is held against, each a process of its own.

In: a file of sentences, one a line with a blank line between documents; a vocabulary's folder. Out: one JSON object
on standard output: processor and wall seconds of the work without start-up and imports, and what came of it.
  floor  Hugging Face's encoder alone: `encode_batch` of `tokenizers` on the documents' sentences, nothing kept
  plain  the published algorithm: `transformers`' BERT tokeniser a sentence, lists of tokens, the published pairs,
         shuffled, and each written padded. What it leaves out of the published program: masks, the TFRecord format
         (whose writing takes longer), and its slow tokeniser in Python

Example:
    python benchmarks/parts/sharding_sides.py plain sentences.txt VOCAB pairs.bin
"""

import json
import os
import random
import sys
import time
from array import array
from itertools import groupby
from pathlib import Path

# One core: the tokeniser's threads are off, as in a worker of bertpipe.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, installed or not

from published_pairs import PublishedPair, published_pairs

from pipeline.corpus.vocabulary import load_vocabulary

MAX_SEQ_LENGTH = 128
_SEED = 12345  # the published default


def main() -> None:
    side, sentences, vocabulary, *rest = sys.argv[1:]
    print(json.dumps(SIDES[side](sentences, vocabulary, *rest)))


def floor(sentences: str, vocabulary: str) -> dict[str, float]:
    tokenizer = load_vocabulary(vocabulary).tokenizer
    lines = Path(sentences).read_text(encoding="utf-8").split("\n")
    documents = [list(group) for solid, group in groupby(lines, bool) if solid]
    clock = _Clock()
    tokens = 0
    for document in documents:
        tokens += sum(len(each) for each in tokenizer.encode_batch(document, add_special_tokens=False))
    return clock.read() | {"tokens": tokens}


def plain(sentences: str, vocabulary: str, output: str) -> dict[str, float]:
    from transformers import BertTokenizerFast

    tokenizer = BertTokenizerFast(tokenizer_object=load_vocabulary(vocabulary).tokenizer)
    draw = random.Random(_SEED)
    clock = _Clock()
    documents: list[list[list[str]]] = [[]]
    with open(sentences, encoding="utf-8") as lines:
        for line in map(str.strip, lines):
            if not line:
                documents.append([])
            elif tokens := tokenizer.tokenize(line):
                documents[-1].append(tokens)
    documents = [document for document in documents if document]
    draw.shuffle(documents)
    pairs = list(published_pairs(documents, MAX_SEQ_LENGTH, draw))
    draw.shuffle(pairs)
    with open(output, "wb") as file:
        for pair in pairs:
            ids = tokenizer.convert_tokens_to_ids(["[CLS]", *pair.a, "[SEP]", *pair.b, "[SEP]"])
            file.write(_written(pair, ids))
    return clock.read() | {
        "pairs": len(pairs),
        "tokens": sum(len(pair.a) + len(pair.b) for pair in pairs),
        "bytes": os.path.getsize(output),
    }


def _written(pair: PublishedPair, ids: list[int]) -> bytes:
    """Ids, mask and segments padded to the longest, and the label, as the published code has them."""
    padding = [0] * (MAX_SEQ_LENGTH - len(ids))
    segments = [0] * (len(pair.a) + 2) + [1] * (len(pair.b) + 1)
    # Two bytes a number: written out in full it is less than the 7 bytes a token of the published format.
    numbers = ids + padding + [1] * len(ids) + padding + segments + padding
    return array("H", numbers).tobytes() + bytes([pair.random_next])


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self._wall, "cpu": time.process_time() - self._cpu}


SIDES = {"floor": floor, "plain": plain}

if __name__ == "__main__":
    main()
