"""The Containerfile holds what the package needs, in the versions that everybody else gets."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
# Lines as the builder reads them: comments gone, continuations joined.
LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
MAKEFILE = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def copied() -> dict[str, str]:
    """What is copied into the image, and to where."""
    found = {}
    for line in instructions("COPY"):
        *names, target = line.split()
        found |= dict.fromkeys(names, target)
    return found


def test_the_image_holds_everything_that_the_package_is_built_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    needed |= {*project["project"]["license-files"], *wheel["packages"], *wheel["force-include"]}
    assert copied().keys() == needed
    for name, target in copied().items():
        assert (ROOT / name).exists()
        # A folder's contents would otherwise land among the others.
        assert target == (name if (ROOT / name).is_dir() else "./")


def test_what_is_copied_is_what_the_builder_is_given() -> None:
    given = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in given
    assert {line.removeprefix("!") for line in given if line.startswith("!")} == copied().keys()


def test_the_versions_are_those_that_make_installs() -> None:
    runs = instructions("RUN")
    assert len(runs) == 2
    assert all("python -m pip install" in run and "--constraint constraints.txt" in run for run in runs)
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    (torch,) = re.findall(r"torch==(\S+)", runs[0])
    assert torch == pinned["torch"] == re.findall(r"torch==(\S+)", MAKEFILE)[0]
    # As in the Makefile: no op is compiled while DeepSpeed is installed.
    assert "DS_BUILD_OPS=0 " in runs[1]
    assert "DS_BUILD_OPS=0 " in MAKEFILE


def test_the_python_is_one_that_the_package_runs_on() -> None:
    (image,) = instructions("FROM")
    version = re.fullmatch(r"docker\.io/library/python:(\d+\.\d+)-slim", image)
    assert version is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert f"Programming Language :: Python :: {version[1]}" in project["project"]["classifiers"]


def test_the_builds_that_the_head_names_set_arguments_that_exist() -> None:
    arguments = {line.split("=")[0] for line in instructions("ARG")}
    assert set(re.findall(r"--build-arg (\w+)=", TEXT)) <= arguments
    for name in arguments:
        assert any(f"${name}" in run for run in instructions("RUN"))
