"""`bertpipe doctor --prepare`: DeepSpeed's ops, built before any job needs them.

In: a folder, and maybe a recipe. Out: the ops in the folder, each in a folder of its own with a stamp. What always
holds: what is built already, for these very versions and this processor, is left alone; without a recipe what this
machine can't build is passed over with its reason, with one a needed op that can't be built is an error.

Example:
    prepare(extensions_folder(), settings=None)
"""

import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RunFailed
from pipeline.progress import duration, say
from pipeline.training import ops
from pipeline.training.settings import ZeroSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS_BETWEEN_LINES = 30.0


def prepare(folder: Path, settings: ZeroSettings | None) -> list[str]:
    """Build what is missing; the ops that `folder` then holds of those asked for.

    settings: those of a recipe, whose ops are asked for; None for all that this machine can build
    Raises RunFailed where one that is asked for can't be built.
    """
    wanted = tuple(ops.BUILDERS) if settings is None else ops.needed_ops(settings)
    if not wanted:
        say("the recipe's DeepSpeed configuration needs no compiled op: nothing to build")
    done = []
    for op in wanted:
        if ops.is_built(op, folder):
            say(f"{op}: built already, in {folder}")
        elif settings is None and (lack := ops.what_building_lacks(op)):
            say(f"{op}: passed over, {lack}")
            continue
        else:
            started = time.monotonic()
            with _ticking(op):
                ops.build(op, folder)
            say(f"{op}: built in {duration(time.monotonic() - started)}, in {folder}")
        done.append(op)
    if not done and wanted:
        raise RunFailed("this machine can build none of DeepSpeed's ops; see the lines above")
    return done


@contextmanager
def _ticking(op: str) -> "Iterator[None]":
    """Say that the build goes on: a compiler is silent for a minute and more."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(f"{op}: compiling, a minute or two"):
            yield
        return
    say(f"{op}: compiling, a minute or two")
    over = threading.Event()
    started = time.monotonic()

    def tick() -> None:
        while not over.wait(_SECONDS_BETWEEN_LINES):
            say(f"{op}: compiling for {duration(time.monotonic() - started)}")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
