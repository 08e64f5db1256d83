"""The command line: quick, honest about defaults, one line for an error."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli import main
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.vocab import VocabConfig

COMMANDS = ("vocab", "shard", "inspect", "pretrain", "evaluate", "convert", "demo")


def test_commands_stand_in_the_roads_order() -> None:
    assert tuple(main.list_commands(click.Context(main))) == COMMANDS


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_loading_a_stage(command: str, cli: Any) -> None:
    code = f"import sys; sys.argv = ['bertpipe', *{command.split()!r}, '--help']\n" + (
        "import atexit, pipeline.cli\n"
        "atexit.register(lambda: print('LOADED', *sys.modules))\n"
        "pipeline.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, loaded = done.stdout.split("LOADED")
    assert "Usage:" in printed
    assert {"torch", "numpy", "pyarrow", "mlflow", "deepspeed"} & set(loaded.split()) == set()


@pytest.mark.parametrize(("command", "config"), [("vocab", VocabConfig), ("shard", ShardConfig)])
def test_the_defaults_that_help_shows_are_the_stages_own(command: str, config: type) -> None:
    own = {field.name: field.default for field in dataclasses.fields(config)}
    shown = main.commands[command].params
    compared = 0
    for parameter in shown:
        if isinstance(parameter, click.Option) and parameter.name in own and not parameter.required:
            shown_default = parameter.get_default(click.Context(main))
            # click marks "no default" with a sentinel of its own.
            plain = shown_default if isinstance(shown_default, str | int | float) else None
            assert plain == own[parameter.name], parameter.name
            compared += 1
    assert compared >= 6


# The control of this table is the README's road, which succeeds (test_readme.py).
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("vocab missing.txt -o OUT", "missing.txt"),
        ("vocab empty.txt -o OUT", "empty"),
        ("vocab small.txt -o OUT --size 30000", "at most"),
        ("vocab small.txt -o OUT --size 5", "size"),
        ("vocab picture.png -o OUT", ".parquet"),
        ("vocab nothing/*.txt -o OUT", "nothing/*.txt"),
        ("shard missing.txt -o OUT", "missing.txt"),
        ("shard empty.txt -o OUT --vocab VOCAB", "empty"),
        ("shard one.txt -o OUT --vocab VOCAB", "1 "),
        ("shard small.txt -o OUT --vocab NOWHERE", "NOWHERE"),
        ("shard small.txt -o OUT --vocab NOMASK", "[MASK]"),
        ("shard small.txt -o OUT --vocab VOCAB --max-seq-length 3", "max_seq_length"),
        ("shard small.txt -o OUT --vocab VOCAB --workers 0", "workers"),
        ("shard small.txt -o OUT --vocab VOCAB --validation-fraction 2", "validation_fraction"),
        ("shard small.txt -o OUT --vocab VOCAB --language xx", "xx"),
        ("shard broken.txt -o OUT --vocab VOCAB", "line 2"),
        ("shard broken.parquet -o OUT --vocab VOCAB", "broken.parquet"),
        ("shard broken.txt.gz -o OUT --vocab VOCAB", "broken.txt.gz"),
        ("inspect NOWHERE", "NOWHERE"),
        ("inspect VOCAB", "manifest.json"),
        ("pretrain missing.yaml", "missing.yaml"),
        ("evaluate NOWHERE --shards SHARDS", "NOWHERE"),
        ("convert NOWHERE -o OUT", "NOWHERE"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    arguments: str, complaint: str, tmp_path: Path, shards: Path, cli: Any
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "one.txt").write_text("Only one document stands here.\nIt has two paragraphs.\n")
    (tmp_path / "small.txt").write_text("\n\n".join(f"Document {n} says this.\nAnd that." for n in range(9)))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "broken.txt").write_bytes(b"good line\nbad \xff line\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "broken.txt.gz").write_bytes(b"\x1f\x8b\x08\x00 cut short")
    (tmp_path / "VOCAB").mkdir()
    tokens = (shards / "vocab" / "vocab.txt").read_text()
    (tmp_path / "VOCAB" / "vocab.txt").write_text(tokens)
    (tmp_path / "NOMASK").mkdir()
    (tmp_path / "NOMASK" / "vocab.txt").write_text(tokens.replace("[MASK]\n", ""))
    before = sorted(tmp_path.rglob("*"))
    refused = cli(*arguments.split(), cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("bertpipe: ")
    assert complaint in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_ctrl_c_in_a_stage_says_how_to_go_on(python_english: Path, tmp_path: Path) -> None:
    import signal

    text = python_english.read_text(encoding="utf-8")
    (tmp_path / "many.txt").write_text("\n\n".join(re.sub(r"\ba\b", str(n), text) for n in range(12)))
    command = [sys.executable, "-m", "pipeline.cli", "shard", "many.txt", "-o", "OUT", "--vocab-size", "2000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "OUT" / ".work").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert not (tmp_path / "OUT" / "manifest.json").exists()
