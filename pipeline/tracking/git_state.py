"""Which commit a checkout stands at, and whether it was changed since.

In: a folder. Out: `commit`, `branch`, `dirty`; nothing where the folder is no checkout, there is no git, or git does
not answer soon. What always holds: nothing is written, nothing is asked of the network.

Example:
    git_state(Path("."))  # {"commit": "1720885…", "branch": "main", "dirty": False}
"""

import os
import subprocess
from pathlib import Path
from typing import Any

import pipeline

_SECONDS = 5.0


def git_state(folder: Path) -> dict[str, Any]:
    """The state of the checkout that holds `folder`; empty where it is none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "branch": branch, "dirty": bool(changed)}


def code_and_folder() -> dict[str, dict[str, Any]]:
    """The checkouts that bertpipe runs from and that the command was given in, as far as they are some."""
    code = Path(pipeline.__file__).resolve().parent
    # An installed package may lie in an environment inside somebody's checkout: that is not its own.
    found = {
        "code": git_state(code) if "site-packages" not in code.parts else {},
        "folder": git_state(Path.cwd()),
    }
    return {name: state for name, state in found.items() if state}


def _git(folder: Path, *command: str) -> str:
    # Not one's own may refuse to be looked at, and a lock of the index is not ours to take.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(
        ["git", "-C", str(folder), *command],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
        env=environment,
    )
    return done.stdout.strip()
