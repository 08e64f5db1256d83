"""What every test may ask for: the shared real text, and a small corpus made on the spot."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("bertpipe", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("bertpipe")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and tasks: $BERTPIPE_DATA, or `shared/data` beside the checkout."""
    folder = Path(os.environ.get("BERTPIPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "english").is_dir():
        pytest.skip(f"needs the shared data; {folder} is not there (set BERTPIPE_DATA)")
    return folder
