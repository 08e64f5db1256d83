"""Every command's bad inputs in one table: an exit code, one line with value and remedy, nothing half-made.

A row is a command with a fault, what the line must say, and the control: the same command without the fault, which
passes. Exit code 2 is the user's input, 1 the machine's failure.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.corpus.manifest import read_manifest
from pipeline.training.metrics import read_metrics
from pipeline.training.world import local_devices
from workshop import bad_inputs

VOCAB = "vocab good.txt -o OUT --size 200"
EXTEND = "vocab good.txt -o OUT --extend VOCAB"
REPORT = "vocab good.txt --report VOCAB"
SOURCES = "shard --sources sources.yaml -o OUT --vocab VOCAB"
SHARD = "shard good.txt -o OUT --vocab VOCAB"
INSPECT = "inspect SHARDS"
VERIFY = "inspect SHARDS --verify"
PRETRAIN = "pretrain good.yaml"
RESUME = "pretrain good.yaml run=TRAINED"
EVALUATE = "evaluate CHECKPOINT --shards SHARDS --sequences 16"
CONVERT = "convert CHECKPOINT -o OUT"
PLAN = "doctor --recipe good.yaml --gpus 4x80GB"
STATUS = "status TRAINED"
RUNS = "runs . TRAINED"
SPELLED = "recipe good.yaml --get phases.*.shards"
REQUEUE = "requeue good.yaml --code 1"
CONTROLS = (
    VOCAB, EXTEND, REPORT, SHARD, SOURCES, INSPECT, VERIFY, PRETRAIN, RESUME, EVALUATE, CONVERT, PLAN, STATUS, RUNS,
    SPELLED, REQUEUE,
)  # fmt: skip


class Row(NamedTuple):
    """A faulty command, what its one line says, the control, the exit code."""

    command: str
    says: str
    control: str
    code: int = 2


TABLE = [
    # The corpus, as both commands that read it see it.
    Row("vocab missing.txt -o OUT --size 200", "missing.txt does not exist", VOCAB),
    Row("vocab nothing/*.txt -o OUT --size 200", "nothing/*.txt matches nothing", VOCAB),
    Row("vocab FOLDER -o OUT --size 200", "FOLDER holds no corpus file", VOCAB),
    Row("vocab picture.png -o OUT --size 200", "picture.png: unknown kind of file", VOCAB),
    Row("vocab empty.txt -o OUT --size 200", "holds no text", VOCAB),
    Row("vocab blank.txt -o OUT --size 200", "holds no text", VOCAB),
    Row("shard empty.txt -o OUT --vocab VOCAB", "0 distinct documents", SHARD),
    Row("shard one.txt -o OUT --vocab VOCAB", "1 distinct documents", SHARD),
    Row("shard latin1.txt -o OUT --vocab VOCAB", "latin1.txt: line 2 is no UTF-8 (byte 0xff)", SHARD),
    Row("shard short.txt.gz -o OUT --vocab VOCAB", "short.txt.gz ends too early", SHARD),
    Row("shard short.txt.bz2 -o OUT --vocab VOCAB", "short.txt.bz2 ends too early", SHARD),
    Row("shard short.txt.xz -o OUT --vocab VOCAB", "short.txt.xz ends too early", SHARD),
    Row("shard short.txt.zst -o OUT --vocab VOCAB", "short.txt.zst ends too early", SHARD),
    Row("shard liar.txt.gz -o OUT --vocab VOCAB", "liar.txt.gz", SHARD),
    Row("shard good.txt -o NOWHERE --append", "NOWHERE does not exist", SHARD),
    Row("shard good.txt -o SHARDS --append --seed 99", "seed: 99 here, ", SHARD),
    Row("shard good.txt -o VOCAB --append", "VOCAB holds no manifest.json", SHARD),
    Row("shard broken.jsonl -o OUT --vocab VOCAB", "broken.jsonl: line 2 is no JSON", SHARD),
    Row("shard keyless.jsonl -o OUT --vocab VOCAB", "keyless.jsonl: line 61", SHARD),
    Row("shard number.jsonl -o OUT --vocab VOCAB", "number.jsonl: line 1", SHARD),
    Row("shard list.jsonl -o OUT --vocab VOCAB", "list.jsonl: line 1", SHARD),
    Row("shard textless.parquet -o OUT --vocab VOCAB", "body, title", SHARD),
    Row("shard good.parquet -o OUT --vocab VOCAB --text-key n", "'n'", SHARD),
    Row("shard doubled.parquet -o OUT --vocab VOCAB", "has 2 columns 'text'", SHARD),
    Row("shard stale.txt -o OUT --vocab VOCAB", "stale.txt is a link to something that is gone", SHARD),
    Row("vocab PIPE -o OUT --size 200", "PIPE is a pipe or a device", VOCAB),
    Row("vocab file:///tmp/a?b.txt -o OUT --size 200", "behind the ? of a URI stand options", VOCAB),
    Row("shard short.parquet -o OUT --vocab VOCAB", "short.parquet is no whole Parquet file", SHARD),
    Row("shard open_00 -o OUT --vocab VOCAB", "open_00", SHARD),
    # What is left out of it.
    Row(
        "shard good.txt -o OUT --vocab VOCAB --filter lenght=9", "unknown filter 'lenght'; the nearest", SHARD
    ),
    Row("vocab good.txt -o OUT --size 200 --filter letters=60", "it must be a share, 0 to 1", VOCAB),
    Row("vocab good.txt -o OUT --size 200 --filter length=9999", "the filters drop all 60 documents", VOCAB),
    Row(
        "shard good.txt -o OUT --vocab VOCAB --filter length=9999", "empty ones dropped, 60 by filters", SHARD
    ),
    Row("shard good.txt -o OUT --vocab VOCAB --redact emial", "the nearest known is email", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --redact 'mrn=(x'", "mrn can't be read: missing )", SHARD),
    Row("vocab good.txt -o OUT --size 200 --redact 'mrn=x*'", "mrn matches the empty string", VOCAB),
    Row("shard good.txt -o SHARDS --vocab SHARDS/vocab --filter urls", "filters: {'urls': True} here", SHARD),
    # The corpus in sources.
    Row("shard -o OUT --vocab VOCAB", "Missing argument 'CORPUS...', or a file of them: --sources", SOURCES),
    Row("vocab -o OUT --size 200", "Missing argument 'CORPUS...', or a file of them: --sources", VOCAB),
    Row(
        "shard good.txt --sources sources.yaml -o OUT --vocab VOCAB",
        "CORPUS (good.txt) does not go with --sources",
        SOURCES,
    ),
    Row(
        "shard --sources missing.yaml -o OUT --vocab VOCAB",
        "missing.yaml of --sources does not exist",
        SOURCES,
    ),
    Row("shard --sources FOLDER -o OUT --vocab VOCAB", "cannot read FOLDER", SOURCES),
    Row("shard --sources broken.yaml -o OUT --vocab VOCAB", "broken.yaml line 3 is no YAML", SOURCES),
    Row("shard --sources good.yaml -o OUT --vocab VOCAB", "good.yaml: unknown key", SOURCES),
    Row("shard --sources unsourced.yaml -o OUT --vocab VOCAB", "must hold sources by name", SOURCES),
    Row("vocab --sources wieght.yaml -o OUT", "unknown key sources.good.wieght; the nearest known", VOCAB),
    Row("shard --sources corpusless.yaml -o OUT --vocab VOCAB", "sources.good.corpus is missing", SOURCES),
    Row("shard --sources weight0.yaml -o OUT --vocab VOCAB", "weight is 0; it must be above 0", SOURCES),
    Row("shard --sources weight-1.yaml -o OUT --vocab VOCAB", "weight is -1; it must be above 0", SOURCES),
    Row("shard --sources weighttext.yaml -o OUT --vocab VOCAB", "'heavy'; it must be a number", SOURCES),
    Row(
        "shard --sources nofiles.yaml -o OUT --vocab VOCAB", "source hollow: FOLDER holds no corpus", SOURCES
    ),
    Row(
        "shard --sources japanese.yaml -o OUT --vocab VOCAB", "source good: --words is for ja and zh", SOURCES
    ),
    # The vocabulary.
    Row("vocab good.txt -o OUT --size 30000", "size is 30000; this corpus allows", VOCAB),
    Row("vocab good.txt -o OUT --size 5", "size is 5", VOCAB),
    Row("vocab good.txt -o OUT --size 200 --min-frequency 0", "min_frequency is 0", VOCAB),
    Row("vocab good.txt -o OUT --size 200 --limit-alphabet 0", "limit_alphabet is 0", VOCAB),
    Row("vocab good.txt -o OUT --size 200 --coverage 2", "coverage is 2", VOCAB),
    Row("vocab good.txt -o good.parquet --size 200", "good.parquet is a file", VOCAB),
    Row("vocab good.txt -o VOCAB --size 200", "VOCAB holds a vocab.txt of unknown origin", VOCAB),
    Row("vocab good.txt -o READONLY/OUT --size 200", "READONLY", VOCAB),
    Row("vocab good.txt -o OUT --sise 200", "No such option '--sise'", VOCAB),
    Row("vocab good.txt --size 200", "Missing option '-o' / '--output'", VOCAB),
    Row("vocab good.txt -o OUT --size 200 --json", "--json goes with --report", VOCAB),
    Row("vocab good.txt -o OUT --extend NOWHERE", "NOWHERE does not exist", EXTEND),
    Row("vocab good.txt -o OUT --extend NOMASK", "no [MASK]", EXTEND),
    Row("vocab good.txt -o OUT --extend VOCAB --size 200", "VOCAB has 2000 tokens, which keep", EXTEND),
    Row("vocab good.txt -o OUT --extend VOCAB --size 30000", "size is 30000; this corpus allows", EXTEND),
    Row("vocab good.txt -o OUT --extend VOCAB --unused 9", "--unused does not go with --extend", EXTEND),
    Row("vocab good.txt -o OUT --extend VOCAB --min-frequency 999", "covers this corpus as it is", EXTEND),
    Row("vocab good.txt -o OUT --extend SHARDS/vocab --cased", "leave the casing out", EXTEND),
    Row("vocab good.txt -o VOCAB --extend VOCAB", "VOCAB holds a vocab.txt of unknown origin", EXTEND),
    Row("vocab good.txt --report NOWHERE", "NOWHERE does not exist", REPORT),
    Row("vocab empty.txt --report VOCAB", "holds no text", REPORT),
    Row("vocab good.txt --report VOCAB -o OUT", "--output does not go with --report", REPORT),
    Row("vocab good.txt --report VOCAB --extend VOCAB", "--extend does not go with --report", REPORT),
    Row("vocab good.txt --report VOCAB --size 200", "--size does not go with --report", REPORT),
    # Shards.
    Row("shard good.txt -o OUT --vocab NOWHERE", "NOWHERE does not exist", SHARD),
    Row("shard good.txt -o OUT --vocab NOMASK", "no [MASK]", SHARD),
    Row("shard good.txt -o OUT --vocab DOUBLE", "'[SEP]' stands in the vocabulary on line", SHARD),
    Row("shard good.txt -o OUT --vocab HOLE", "of the vocabulary is empty", SHARD),
    Row("shard good.txt -o OUT --vocab OTHERJSON", "and they differ", SHARD),
    Row("shard good.txt -o OUT --vocab SHARDS/vocab --cased", "leave the casing out", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --max-seq-length 3", "max_seq_length is 3", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --dupe-factor 0", "dupe_factor is 0", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --workers 0", "workers is 0", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --validation-fraction 2", "validation_fraction is 2", SHARD),
    Row("shard good.txt -o OUT --vocab VOCAB --language xx", "language 'xx' is unknown", SHARD),
    Row(
        "shard good.txt -o OUT --vocab VOCAB --words",
        "--words is for ja and zh, and the language is 'en'",
        SHARD,
    ),
    Row("shard good.txt -o OUT --vocab VOCAB --words --language th", "needs spaces between words", SHARD),
    Row(
        "shard good.txt -o SHARDS --vocab SHARDS/vocab --language zh --words",
        "words: 'rjieba' here, None",
        SHARD,
    ),
    Row("shard good.txt -o OUT --vocab VOCAB --seed -1", "seed is -1", SHARD),
    Row("shard good.txt -o TAKEN --vocab VOCAB", "TAKEN is not empty and holds no shards", SHARD),
    Row("shard good.txt -o SHARDS --vocab VOCAB", "SHARDS holds shards made otherwise", SHARD),
    Row("shard good.txt -o s3://bucket/out --vocab VOCAB", "written to a local folder", SHARD),
    Row("shard good.txt -o READONLY/OUT --vocab VOCAB", "READONLY", SHARD),
    Row("shard good.txt -o FULL/OUT --vocab VOCAB", "No space left on device", SHARD, 1),
    # Looking at them.
    Row("inspect NOWHERE", "NOWHERE", INSPECT),
    Row("inspect VOCAB", "manifest.json", INSPECT),
    Row("inspect NOJSON", "is no JSON", INSPECT),
    Row("inspect NEWER", "format 99", INSPECT),
    Row("inspect CUTINDEX", "index.arrow has", INSPECT),
    Row("inspect CUT --verify", "train-00000.tar", VERIFY, 1),
    Row("inspect FLIPPED --verify", "train-00000.tar", VERIFY, 1),
    Row("inspect TARLESS --verify", "train-00000.tar cannot be read", VERIFY, 1),
    # The recipe.
    Row("pretrain missing.yaml", "missing.yaml does not exist", PRETRAIN),
    Row("pretrain list.yaml", "not the keys of a recipe", PRETRAIN),
    Row("pretrain broken.yaml", "line 3 is no YAML", PRETRAIN),
    Row("pretrain typo.yaml", "unknown key precison; the nearest known is precision", PRETRAIN),
    Row("pretrain good.yaml steps", "'steps' is no override", PRETRAIN),
    Row("pretrain good.yaml run.x.y=1", "names nothing in the recipe", PRETRAIN),
    Row("pretrain good.yaml run=2024-99-99", "is no YAML", PRETRAIN),
    Row("pretrain good.yaml phases.0.steps=0", "steps is 0; it must be at least 1", PRETRAIN),
    Row("pretrain good.yaml phases.0.steps=many", "phases.0.steps", PRETRAIN),
    Row("pretrain good.yaml phases.0.warmup_steps=9", "warmup_steps is 9", PRETRAIN),
    Row("pretrain good.yaml phases.0.learning_rate=-1.0", "learning_rate is -1.0", PRETRAIN),
    Row("pretrain good.yaml phases.0.micro_batch=5", "micro_batch 5 does not divide", PRETRAIN),
    Row("pretrain good.yaml phases.0.optimizer=sgd", "known: adamw, bert_adam, lamb", PRETRAIN),
    Row("pretrain good.yaml lamb.beta1=1.0", "beta1 is 1.0; it lies in [0, 1)", PRETRAIN),
    Row("pretrain good.yaml onebit.freeze_step=0", "freeze_step is 0; it must be at least 1", PRETRAIN),
    Row("pretrain good.yaml phases.0.optimizer=onebit_adam", "onebit.freeze_step is not set", PRETRAIN),
    Row(
        "pretrain good.yaml phases.0.optimizer=onebit_lamb onebit.freeze_step=1",
        "has 1 steps: nothing would be compressed",
        PRETRAIN,
    ),
    Row(
        "pretrain good.yaml phases.0.optimizer=onebit_adam onebit.freeze_step=1 phases.0.steps=4",
        "set deepspeed=zero0 precision=fp32",
        PRETRAIN,
    ),
    Row(
        "pretrain good.yaml phases.0.optimizer=onebit_adam onebit.freeze_step=1 phases.0.steps=4 deepspeed=zero0 "
        "precision=bf16",
        "asks for stage 0, precision for bf16; set deepspeed=zero0 precision=fp32",
        PRETRAIN,
    ),
    Row("pretrain good.yaml model.max_positions=32", "more than the model's 32 positions", PRETRAIN),
    Row("pretrain good.yaml model.preset=huge", "model.preset 'huge' is unknown", PRETRAIN),
    Row("pretrain good.yaml model.heads=3", "is not a multiple of model.heads 3", PRETRAIN),
    Row("pretrain good.yaml model.norm=per", "model.norm 'per' is unknown: did you mean 'pre'?", PRETRAIN),
    Row("pretrain good.yaml precision=fp8", "known: fp32, bf16, fp16", PRETRAIN),
    Row("pretrain good.yaml precision=bf16 deepspeed=zero0", "bf16 goes with ZeRO stage 1 or more", PRETRAIN),
    Row("pretrain good.yaml compile=true deepspeed=zero3", "set compile=false, or deepspeed=zero2", PRETRAIN),
    Row("pretrain good.yaml compile=yes-please", "compile is", PRETRAIN),
    Row("pretrain good.yaml activation_checkpointing=some", "known: none, attention, full", PRETRAIN),
    Row("pretrain good.yaml deepspeed=zero9", "there are zero0, zero1, zero2", PRETRAIN),
    Row("pretrain good.yaml deepspeed=zero9.json", "zero9.json does not exist", PRETRAIN),
    Row("pretrain good.yaml tracking.uri=http://bob:pw@host", "export it as MLFLOW_TRACKING_URI", PRETRAIN),
    Row("pretrain good.yaml deepspeed=batch.json", "sets 'train_batch_size'", PRETRAIN),
    Row("pretrain good.yaml deepspeed=prescaled.json", "would be ignored; leave it out", PRETRAIN),
    Row("pretrain good.yaml deepspeed=stage7.json", "asks for ZeRO stage 7", PRETRAIN),
    Row("pretrain good.yaml deepspeed=mine.json", "mine.json does not exist", PRETRAIN),
    Row("pretrain good.yaml adamw.epsilon=.nan", "epsilon is nan", PRETRAIN),
    Row("pretrain good.yaml gradient_clipping=.inf", "gradient_clipping is inf", PRETRAIN),
    # The run: its shards, its ranks, its folder.
    Row("pretrain good.yaml phases.0.shards=nowhere", "nowhere does not exist", PRETRAIN),
    Row("pretrain good.yaml phases.0.shards=NEWER", "format 99", PRETRAIN),
    Row("pretrain good.yaml phases.0.shards=INDEXLESS", "index.arrow is missing, its manifest", PRETRAIN),
    Row("pretrain good.yaml phases.0.shards=NOVOCAB", "vocab.txt", PRETRAIN),
    Row("pretrain good.yaml phases.0.shards=OTHERVOCAB", "0" * 32, PRETRAIN),
    Row("pretrain good.yaml evaluate.sentences=[none]", "it has no [MASK] to predict a word for", PRETRAIN),
    Row("pretrain good.yaml --pipeline ' '", "--pipeline is empty", PRETRAIN),
    Row("pretrain good.yaml phases.0.shards=TRAINONLY", "set evaluate.every=0", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={}'", "shards is empty", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: 0}'", "the weight of SHARDS is 0.0", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: many}'", "phases.0.shards.SHARDS is 'many'", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards=[SHARDS]'", "it must be text, or hold names", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: 1, SHARDS: 2}'", "is no YAML", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: 1, ./SHARDS: 2}'", "hold the same pairs", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: 1, nowhere: 1}'", "nowhere does not exist", PRETRAIN),
    Row("pretrain good.yaml 'phases.0.shards={SHARDS: 1, OTHERVOCAB: 1}'", "share one vocabulary", PRETRAIN),
    Row(
        "pretrain good.yaml 'phases.0.shards={SHARDS: 1, TRAINONLY: 1}'",
        "TRAINONLY holds no held-out",
        PRETRAIN,
    ),
    Row("pretrain good.yaml phases.0.sequence_length=32", "sequence_length is 32; raise it", PRETRAIN),
    Row("pretrain good.yaml lanes=3", "lanes is 3; it must divide", PRETRAIN),
    Row("pretrain good.yaml phases.0.global_batch=8192", "fewer than one global batch of 8192", PRETRAIN),
    Row("pretrain good.yaml --ranks 3", "3 ranks don't divide the plan's 8 lanes", PRETRAIN),
    Row("pretrain good.yaml --ranks 8", "micro_batch 4 doesn't divide the 2 sequences", PRETRAIN),
    Row("pretrain good.yaml --ranks 0", "--ranks is 0", PRETRAIN),
    Row("pretrain good.yaml precision=fp16", "fp16 needs a CUDA device", PRETRAIN),
    Row("pretrain good.yaml run=TAKEN", "TAKEN holds other files", PRETRAIN),
    Row("pretrain good.yaml run=good.txt", "good.txt is a file", PRETRAIN),
    Row("pretrain good.yaml run=s3://bucket/run", "is a URI", PRETRAIN),
    Row("pretrain good.yaml run=READONLY/OUT", "READONLY", PRETRAIN),
    Row("pretrain good.yaml run=FULL/OUT", "No space left on device", PRETRAIN, 1),
    Row("pretrain good.yaml run=TRAINED seed=4", "seed: 4 here, 1 there", RESUME),
    Row(
        "pretrain good.yaml run=TRAINED phases.0.steps=2 --allow-data-change",
        "steps: 2 here, 1 there",
        RESUME,
    ),
    Row("pretrain good.yaml run=TRAINED phases.0.steps=2", "steps: 2 here, 1 there", RESUME),
    Row("pretrain good.yaml run=TRAINED --ranks 3", "3 ranks don't divide the plan's 8 lanes", RESUME),
    Row(
        "pretrain good.yaml run=TRAINED deepspeed=nvme.json",
        "step 1 was checkpointed by 1 rank at ZeRO 1, and what is offloaded to nvme goes on only with the same ranks",
        RESUME,
    ),
    Row("pretrain good.yaml run=TRAINED precision=bf16", "precision: 'bf16' here, 'fp32' there", RESUME),
    Row("pretrain good.yaml run=REWOUND", "checkpoint.json is damaged: it has hash", RESUME, 1),
    Row("pretrain good.yaml masking.rate=0", "masking.rate is 0", PRETRAIN),
    # Checkpoints.
    Row("evaluate NOWHERE --shards SHARDS", "NOWHERE does not exist", EVALUATE),
    Row("evaluate TRAINED --shards SHARDS", "did you mean TRAINED/checkpoints/latest?", EVALUATE),
    Row("evaluate NOTHINGSAID --shards SHARDS", "checkpoint.json is damaged", EVALUATE),
    Row("evaluate NEWERCHECKPOINT --shards SHARDS", "has format 99", EVALUATE),
    Row("evaluate CHECKPOINT --shards NOWHERE", "NOWHERE", EVALUATE),
    Row("evaluate CHECKPOINT --shards OTHERVOCAB", "0" * 32, EVALUATE),
    Row("evaluate CHECKPOINT --shards TRAINONLY", "no held-out pairs", EVALUATE),
    Row("evaluate CHECKPOINT --shards SHARDS --sequences 0", "--sequences is 0", EVALUATE),
    Row("evaluate CUTCHECKPOINT --shards SHARDS", "weights.safetensors has", EVALUATE, 1),
    Row("convert NOWHERE -o OUT", "NOWHERE does not exist", CONVERT),
    Row("convert CHECKPOINT -o OUT --register a/b", "a model's name is not empty", CONVERT),
    Row("convert CHECKPOINT -o OUT --register m --no-track", "does not go with --no-track", CONVERT),
    Row("convert CHECKPOINT -o OUT --register m", "belongs to no run that is on record at", CONVERT),
    Row("convert CHECKPOINT -o TAKEN", "TAKEN exists and is not empty", CONVERT),
    Row("convert CHECKPOINT -o s3://bucket/model", "is a URI", CONVERT),
    Row("convert CUTCHECKPOINT -o OUT", "weights.safetensors has", CONVERT, 1),
    Row(
        "convert GATED -o OUT",
        "bertpipe knows no class of transformers for a BERT with model.activation geglu",
        CONVERT,
    ),
    Row("convert SWAPPED -o OUT", "vocab.txt", CONVERT, 1),
    Row("convert CHECKPOINT -o READONLY/OUT", "READONLY", CONVERT),
    Row("convert CHECKPOINT -o FULL/OUT", "No space left on device", CONVERT, 1),
    # Runs looked at from outside.
    Row("status NOWHERE", "NOWHERE does not exist; `bertpipe runs` lists", STATUS),
    Row("status SHARDS", "SHARDS is no run folder: it holds no recipe.yaml", STATUS),
    Row("status good.txt", "good.txt is no run folder", STATUS),
    Row("runs NOWHERE", "cannot read NOWHERE: No such file", RUNS),
    Row("runs SHARDS", "SHARDS holds no run folders", RUNS),
    Row("runs good.txt", "good.txt is a file; name run folders", RUNS),
    Row("recipe missing.yaml", "missing.yaml does not exist", SPELLED),
    Row("recipe good.yaml --get phases.*.shard", "phases.*.shard names nothing in the recipe", SPELLED),
    Row("recipe good.yaml --get phases.7.shards", "phases.7.shards names nothing in the recipe", SPELLED),
    Row("requeue missing.yaml --code 1", "missing.yaml does not exist", REQUEUE),
    Row("requeue good.yaml --code many", "'many' is not a valid integer", REQUEUE),
    # The rest.
    Row("doctor --recipe missing.yaml --gpus 4x80GB", "missing.yaml does not exist", PLAN),
    Row("doctor --recipe good.yaml --gpus many", "--gpus", PLAN),
    Row("doctor --gpus 4x80GB", "add --recipe", PLAN),
    Row("demo --steps 0", "--steps is 0", VOCAB),
    Row("demo --corpus missing.txt -o OUT", "missing.txt does not exist", VOCAB),
    Row("pretrane good.yaml", "Did you mean 'pretrain'?", PRETRAIN),
]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, shards: Path, cli: Any) -> Path:
    """The folder that `workshop.bad_inputs` fills."""
    folder = tmp_path_factory.mktemp("workshop")
    bad_inputs.build(folder, shards, cli)
    return folder


@pytest.fixture
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two small file systems: `FULL`, with 4 KB left, and `READONLY`."""
    folder = tmp_path_factory.mktemp("disks")
    mounted = []
    try:
        for name, options in (("FULL", "size=64k"), ("READONLY", "size=64k,ro")):
            (folder / name).mkdir()
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder / name)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("needs to mount a small tmpfs: root")
            mounted.append(folder / name)
        (folder / "FULL" / "ballast").write_bytes(bytes(60 << 10))
        yield folder
    finally:
        for place in mounted:
            subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def bench(workshop: Path, tmp_path: Path) -> Path:
    """A folder that shows everything in the workshop, and in which a test may write."""
    for entry in workshop.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def contents(*folders: Path) -> dict[str, int]:
    """Every file and folder below, links followed, with its last change."""
    found = {}
    for folder in folders:
        for place, _, names in os.walk(folder, followlinks=True):
            for path in (Path(place), *(Path(place) / name for name in names)):
                # The temporary folder itself changes when something comes and goes.
                found[str(path)] = path.stat().st_mtime_ns if path.is_file() else 0
    return found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.command)
def test_a_bad_input_gets_one_line_and_leaves_nothing(
    row: Row, bench: Path, cli: Any, request: pytest.FixtureRequest
) -> None:
    watched = [bench]
    if "FULL" in row.command or "READONLY" in row.command:
        disks = request.getfixturevalue("disks")
        for name in ("FULL", "READONLY"):
            (bench / name).symlink_to(disks / name)
    if "fp16" in row.command and local_devices():
        pytest.skip("fp16 is refused where there is no GPU, and here is one")
    before = contents(*watched)
    done = cli(*shlex.split(row.command), cwd=bench)
    assert done.returncode == row.code, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bertpipe: ")]
    assert len(said) == 1, done.stderr
    assert row.says in (done.stderr if "REWOUND" in row.command else said[0])
    assert "Traceback" not in done.stderr + done.stdout
    if "REWOUND" in row.command:
        return  # it says which checkpoint it passes over, and the folder is its own
    if row.code == 2:
        # Bad input is found before anything is begun, so nothing else is said either.
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert contents(*watched) == before
    else:
        # A machine that fails leaves whole things and what the same command continues from: no model, no manifest.
        made = set(contents(*watched)) - set(before)
        final = ("manifest.json", "model.safetensors", "checkpoint.json", "vocab.txt")
        assert not [path for path in made if path.endswith(final) and "/vocab/" not in path]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_control_passes(control: str, bench: Path, cli: Any) -> None:
    done = cli(*control.split(), cwd=bench)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["good.jsonl", "good.parquet", "wiki_00", "good.txt.zst", "good.txt.xz"])
def test_each_kind_of_corpus_passes_where_its_broken_ones_fail(name: str, bench: Path, cli: Any) -> None:
    done = cli("shard", name, "-o", "OUT", "--vocab", "VOCAB", cwd=bench)
    assert done.returncode == 0, done.stderr
    assert (bench / "OUT" / "manifest.json").exists()


def test_the_table_covers_every_command() -> None:
    assert len(TABLE) == len({row.command for row in TABLE}) > 100
    assert {row.control for row in TABLE} <= set(CONTROLS)
    assert {shlex.split(row.command)[0] for row in TABLE} >= {
        "vocab", "shard", "inspect", "pretrain", "evaluate", "convert", "demo", "doctor",
        "status", "runs", "recipe", "requeue",
    }  # fmt: skip


def test_a_damaged_shard_ends_training_with_one_line(bench: Path, cli: Any) -> None:
    done = cli("pretrain", "good.yaml", "phases.0.shards=CUT", "--ranks", 2, cwd=bench)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("bertpipe: ")]
    assert said
    assert all("train-00000.tar" in line for line in said)
    assert not (bench / "OUT" / "checkpoints").exists()
    # Asked to, it goes on without what is lost, and counts it.
    shutil.copytree(bench / "SHARDS", bench / "HALF")
    (shard,) = read_manifest(str(bench / "HALF")).of_split("train")
    os.truncate(bench / "HALF" / shard.name, shard.block_offsets[1])
    skipped = cli("pretrain", "good.yaml", "phases.0.shards=HALF", "loader.damage=skip", cwd=bench)
    assert skipped.returncode == 0, skipped.stderr
    assert skipped.stderr.count("are left out (loader.damage is skip)") == 1
    lost = [line["samples_lost"] for line in read_metrics(bench / "OUT")]
    assert 0 < sum(lost) < 16 * len(lost)
    assert read_metrics(bench / "OUT")[-1]["samples"] == 16 * len(lost) - sum(lost)
    assert all(line["mlm_loss"] > 1 for line in read_metrics(bench / "OUT"))
    # With nothing left at all there is nothing to go on with.
    shutil.copytree(bench / "CUT", bench / "EMPTIED")
    for tar in (bench / "EMPTIED").glob("train-*.tar"):
        tar.write_bytes(b"")
    emptied = cli(
        "pretrain", "good.yaml", "run=NEW", "phases.0.shards=EMPTIED", "loader.damage=skip", cwd=bench
    )
    assert emptied.returncode == 1
    assert "step 1 has lost all its" in emptied.stderr.splitlines()[-1]
    assert "Traceback" not in emptied.stderr


def test_a_tracking_server_that_is_away_stops_no_training_and_is_named(bench: Path, cli: Any) -> None:
    done = cli("pretrain", "good.yaml", "tracking.experiment=x", "tracking.uri=http://127.0.0.1:9", cwd=bench)
    assert done.returncode == 0, done.stderr
    assert "warning: http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    away = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    examined = cli("doctor", cwd=bench, env=away)
    (line,) = [line for line in examined.stdout.splitlines() if "http://127.0.0.1:9" in line]
    assert line.startswith("warning")
