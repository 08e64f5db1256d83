"""The README's and the how-to pages' commands run as they stand there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo import write_corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
# A test has minutes, not hours: fewer steps, smaller ones, fewer held-out pairs; everything else as written.
SHORTENED = " phases.0.steps=4 phases.0.warmup_steps=2 checkpoint.every=2 evaluate.every=4"
FEWER_PAIRS = " evaluate.sequences=64"
SMALLER = {"global_batch: 64": "global_batch: 16", "micro_batch: 32": "micro_batch: 8"}


def blocks(page: str) -> list[str]:
    """What a page marks as tested: blocks of commands, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"<!-- tested -->\n```bash\n(.*?)```", smaller(text), flags=re.DOTALL)


def smaller(text: str) -> str:
    """A page's or a recipe's text with the batches of `recipes/tiny.yaml` made small."""
    for written, tried in SMALLER.items():
        text = text.replace(written, tried)
    return text


@pytest.fixture
def scratch(python_english: Path, tmp_path: Path) -> Path:
    """A folder with a corpus and the recipes, as a page's reader has it."""
    (tmp_path / "corpus").mkdir()
    shutil.copy(python_english, tmp_path / "corpus" / "english.txt")
    (tmp_path / "recipes").mkdir()
    for path in (ROOT / "recipes").iterdir():
        (tmp_path / "recipes" / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    tiny = tmp_path / "recipes" / "tiny.yaml"
    written = tiny.read_text(encoding="utf-8")
    assert all(batch in written for batch in SMALLER)
    tiny.write_text(smaller(written), encoding="utf-8")
    return tmp_path


def run(commands: str, folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"


@pytest.mark.long
def test_the_road_of_the_readme_ends_in_a_model(scratch: Path) -> None:
    # For a vocabulary of 8,192.
    write_corpus(scratch / "corpus" / "english.txt")
    for block in blocks("README.md"):
        for command in block.strip().splitlines():
            if "bertpipe pretrain" in command:
                command += FEWER_PAIRS if "steps" in command else FEWER_PAIRS + SHORTENED
            if "bertpipe evaluate" in command:
                command += " --sequences 64"
            run(command, scratch)
    snippet = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert snippet is not None
    subprocess.run([sys.executable, "-c", snippet[1]], cwd=scratch, check=True, timeout=120)
    assert (scratch / "RUNS" / "mlflow.db").exists()


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_commands_of_a_page_run_in_their_order(page: str, scratch: Path) -> None:
    for block in blocks(page):
        run(block, scratch)


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_every_block_of_commands_says_whether_it_is_tested(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    # Blocks without a language show what can't be run here: an installation, a cluster's own names.
    unmarked = re.findall(r"(?<!<!-- tested -->\n)(?<!<!-- tested: cluster -->\n)```bash\n.*", text)
    assert unmarked == []


def test_there_is_a_page_for_each_thing_that_a_newcomer_wants_to_do() -> None:
    wanted = ["docs/corpus.md", "docs/languages.md", "docs/resuming.md", "docs/slurm.md", "docs/stages.md"]
    assert set(wanted) <= set(PAGES)
    assert all(f"({page})" in README for page in wanted)


def test_the_two_commands_of_the_first_screen_are_makes_own() -> None:
    first_screen = README[: README.index("## The road")]
    targets = re.findall(r"^make (\w+)", first_screen, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(
        r"\]\(([\w./-]+)\)|`((?:tests|recipes|benchmarks|docs|pipeline|model|slurm|deepspeed_configs)/[\w./-]+)`",
        text,
    )
    for link, path in named:
        assert ((ROOT / page).parent / link if link else ROOT / path).exists(), link or path


def test_every_law_names_tests_that_exist() -> None:
    table = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    names = set(re.findall(r"(test_\w+\.py)", table))
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert names
    assert names <= there
