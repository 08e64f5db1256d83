"""Folders, looked at whole."""

from pathlib import Path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, by its path inside the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
