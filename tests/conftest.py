"""What every test may ask for: the shared real text, and small things made on the spot."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from workshop.forks import Forks

settings.register_profile("bertpipe", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("bertpipe")
# Test processes share two cores; threads that spin while they wait would starve the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no test process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and tasks: $BERTPIPE_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("BERTPIPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "english").is_dir():
        pytest.skip(f"needs the shared data; {folder} is not there (set BERTPIPE_DATA)")
    return folder


@pytest.fixture(scope="session")
def cli() -> Iterator[Cli]:
    """`bertpipe` as a process of its own: cli("pretrain", "recipe.yaml", cwd=…) → what it printed."""
    forks = Forks()

    def run(
        *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        if env is None:
            return forks.run(words, cwd or Path.cwd())
        # Another environment may change what is loaded, so all of it is loaded anew.
        command = [sys.executable, "-m", "pipeline.cli", *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=280, cwd=cwd, env=env, check=False
        )

    yield run
    forks.close()


@pytest.fixture(scope="session")
def python_english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus file of real English: the language reference's topics, which come with Python (0.7 MB)."""
    from pipeline.demo import topics

    path = tmp_path_factory.mktemp("corpus") / "topics.txt"
    path.write_text("\n\n".join(topics()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shards(python_english: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of that corpus, with their vocabulary of 2,000 tokens; pairs of up to 64 tokens."""
    from workshop.shard_folders import shard_small

    return shard_small(python_english, tmp_path_factory.mktemp("shards") / "64", vocab_size=2000)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow creates it: that takes seconds, a copy none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path
