"""Files that come with bertpipe beside its code: recipes and DeepSpeed configurations.

In: a name such as `deepspeed_configs/zero1.json`. Out: its path, in a checkout (the folders at the top
level) and in an installed wheel (`pipeline/shipped_files/`) alike.
"""

from pathlib import Path

from pipeline.errors import InputError

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (_PACKAGE.parent, _PACKAGE / "shipped_files")


def shipped_file(name: str, *, what: str) -> Path:
    """The path of the shipped file `name`; `what` is the key or flag that asked for it.

    Raises InputError naming the files there are.
    """
    for root in _ROOTS:
        if (root / name).is_file():
            return root / name
    wanted = Path(name)
    there = shipped_names(str(wanted.parent), wanted.suffix)
    raise InputError(f"{what}: {wanted.stem!r} is not shipped; there are {', '.join(there)}; or give a path")


def shipped_names(folder: str, suffix: str) -> list[str]:
    """The shipped files of a folder and kind, without their suffix, sorted."""
    return sorted({path.stem for root in _ROOTS for path in (root / folder).glob(f"*{suffix}")})
