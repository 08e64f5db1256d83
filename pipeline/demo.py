"""`bertpipe demo`: the whole road on real text, with nothing but the installed package.

In: the English that ships with every Python (the language reference's topics and the standard library's
docstrings, about 2 MB), or a corpus of the user's. Out: `demo/` with corpus, vocabulary, shards, a run, a
converted model, and a few filled-in blanks. What always holds: each stage is the one that its command runs;
run again, it continues where it was.

Example:
    bertpipe demo -o /tmp/demo
"""

import ast
import json
import pydoc_data.topics
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline import storage
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as run_shard
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocab import VocabConfig
from pipeline.corpus.vocab import run as run_vocab
from pipeline.errors import InputError
from pipeline.progress import duration
from pipeline.release.convert import ConvertConfig
from pipeline.release.convert import run as run_convert
from pipeline.shipped import shipped_file
from pipeline.training.checkpoints import FOLDER, LATEST
from pipeline.training.evaluate import EvaluateConfig, describe
from pipeline.training.evaluate import run as run_evaluate
from pipeline.training.pretrain import run as run_pretrain
from pipeline.training.world import local_devices

# About two minutes on two cores.
_STEPS = 800
_VOCABULARY_SIZE = 4096
_RANKS = 2
_SENTENCES = (
    "Return a list of the [MASK] in the file.",
    "If the argument is not given, the [MASK] value is used.",
    "Raises an [MASK] if the object is not found.",
    "The first [MASK] is the name of the module.",
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What `bertpipe demo` is asked.

    corpus: files of the user's; empty for Python's own English
    steps: training steps; None for about two minutes on two cores
    """

    output: Path
    corpus: tuple[str, ...] = ()
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"--steps is {self.steps}; it must be at least 1")
        if ":/" in str(self.output):
            raise InputError(f"{self.output} is a URI; the demo writes to a local folder")


def run(config: DemoConfig) -> None:
    """Walk the road; prints what each stage made."""
    started = time.monotonic()
    output = config.output
    model = output / "model"
    if model.exists():
        raise InputError(f"{output} holds a finished demo; remove the folder or name another with -o")
    if config.corpus:
        find_splits(config.corpus)  # refuses what is none, before a folder is made
    storage.make_folder(str(output))
    corpus = config.corpus or (str(write_corpus(output / "corpus.txt")),)
    read = ReadOptions()

    _title("1. vocabulary", f"WordPiece of {_VOCABULARY_SIZE:,} tokens")
    vocabulary = str(output / "vocab")
    run_vocab(VocabConfig(corpus=corpus, output=vocabulary, size=_VOCABULARY_SIZE, read=read))

    _title("2. shards", "sentence pairs, 5 % of the documents held out")
    shards = str(output / "shards")
    run_shard(
        ShardConfig(corpus=corpus, output=shards, vocab=vocabulary, validation_fraction=0.05, read=read)
    )

    steps = config.steps or _STEPS
    ranks = min(_RANKS, local_devices() or _RANKS)
    _title("3. pretraining", f"2 layers × 128, {ranks} ranks, DeepSpeed ZeRO 1, {steps} steps")
    run_path = output / "runs" / "tiny"
    # Quoted, since a value is YAML and a path may hold anything.
    overrides = [
        f"run={json.dumps(str(run_path))}",
        f"phases.0.shards={json.dumps(shards)}",
        *_schedule(steps),
    ]
    run_pretrain(str(shipped_file("recipes/tiny.yaml", what="demo")), overrides, ranks)

    _title("4. evaluation", "on the held-out documents")
    checkpoint = run_path / FOLDER / LATEST
    click.echo(describe(run_evaluate(EvaluateConfig(checkpoint=checkpoint, shards=shards))))

    _title("5. conversion", "to a Hugging Face folder, proved by logits")
    proof = run_convert(ConvertConfig(checkpoint=checkpoint, output=model))
    click.echo(f"transformers' logits differ from the engine's by at most {proof.largest_difference:.1e}")

    _title("6. blanks", "filled in by transformers' fill-mask pipeline")
    _fill_blanks(model)

    click.echo(f"\nIn {duration(time.monotonic() - started)}, bertpipe made:")
    for path, what in (
        (vocabulary, "the vocabulary"),
        (shards, f"the shards; look at them with: bertpipe inspect {shards}"),
        (run_path, "the run: recipe, metrics.jsonl, checkpoints"),
        (model, 'the model; transformers.pipeline("fill-mask", model=…) loads it'),
    ):
        click.echo(f"  {path!s:<24} {what}")
    click.echo(f"Its curves: mlflow server --backend-store-uri sqlite:///{output / 'runs' / 'mlflow.db'}")
    click.echo("            and http://127.0.0.1:5000 in a browser")


def _title(stage: str, what: str) -> None:
    click.echo(f"\n== {stage}: {what}")


def _schedule(steps: int) -> list[str]:
    every = -(-steps // 3)
    return [
        f"phases.0.steps={steps}",
        f"phases.0.warmup_steps={steps // 10}",
        f"checkpoint.every={every}",
        f"evaluate.every={every}",
        "phases.0.learning_rate=2.0e-3",
        "phases.0.global_batch=32",
        "phases.0.micro_batch=16",
    ]


def _fill_blanks(model: Path) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    fill = transformers.pipeline("fill-mask", model=str(model), device="cpu")
    answers: Any = fill(list(_SENTENCES), top_k=3)
    for sentence, found in zip(_SENTENCES, answers, strict=True):
        words = ", ".join(f"{answer['token_str']} {answer['score']:.0%}" for answer in found)
        click.echo(f"  {sentence}\n      → {words}")


def write_corpus(path: Path) -> Path:
    """Python's own English as a corpus file: a document a topic and a module, a paragraph a line."""
    documents = [*topics(), *_docstrings()]
    storage.write_text(str(path), "\n\n".join(documents) + "\n")
    click.echo(
        f"{path}: {len(documents)} documents, {path.stat().st_size / 1e6:.1f} MB of Python's own English"
    )
    return path


def topics() -> Iterator[str]:
    """Python's language reference, a document a topic."""
    for name in sorted(pydoc_data.topics.topics):
        yield from _document([pydoc_data.topics.topics[name]])


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}
    for path in sorted(library.rglob("*.py")):
        if left_out.isdisjoint(path.relative_to(library).parts):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # templates and deliberately broken files
            owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners))
            yield from _document([text for text in found if text])


def _document(texts: list[str]) -> Iterator[str]:
    """One document of several texts, its paragraphs a line each; nothing where there are too few words."""
    paragraphs = (paragraph for text in texts for paragraph in re.split(r"\n\s*\n", text))
    lines = [" ".join(paragraph.split()) for paragraph in paragraphs]
    document = "\n".join(line for line in lines if line)
    if len(document) >= 200:
        yield document
