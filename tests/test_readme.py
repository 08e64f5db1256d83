"""The README's commands run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo import write_corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# A test has minutes, not hours: fewer steps, everything else as written.
SHORTENED = " phases.0.steps=12 phases.0.warmup_steps=2 checkpoint.every=6 evaluate.every=6"


def blocks() -> list[list[str]]:
    """The commands of each block that the README marks as tested."""
    found = re.findall(r"<!-- tested[^>]*-->\n```bash\n(.*?)```", README, flags=re.DOTALL)
    return [block.strip().splitlines() for block in found]


def test_the_road_of_the_readme_ends_in_a_model(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus" / "english.txt")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    road, overrides = blocks()
    assert len(road) == 6
    for command in (*road, *overrides):
        shortened = command + SHORTENED if "pretrain" in command and "steps" not in command else command
        done = subprocess.run(
            shortened,
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    snippet = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert snippet is not None
    subprocess.run([sys.executable, "-c", snippet[1]], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "RUNS" / "mlflow.db").exists()


def test_the_two_commands_of_the_first_screen_are_makes_own() -> None:
    first_screen = README[: README.index("## The road")]
    targets = re.findall(r"^make (\w+)", first_screen, flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/laws.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(
        r"\]\(([\w./-]+)\)|`((?:tests|recipes|benchmarks|docs|pipeline|model)/[\w./-]+)`", text
    )
    assert named
    for link, path in named:
        assert ((ROOT / page).parent / link if link else ROOT / path).exists(), link or path


def test_every_law_names_tests_that_exist() -> None:
    table = (ROOT / "docs" / "laws.md").read_text(encoding="utf-8")
    names = set(re.findall(r"(test_\w+\.py)", table))
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert names
    assert names <= there
