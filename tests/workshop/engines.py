"""What a checkpoint does with an engine's state, without the rest of it."""

from pathlib import Path

from pipeline.training.engine import Engine
from pipeline.training.state_files import write_state


def save(engine: Engine, folder: Path) -> None:
    """Write the engine's state under a folder; every rank calls it."""
    for path, state in engine.states(folder):
        write_state(path, state)
