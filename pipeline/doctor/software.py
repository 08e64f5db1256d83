"""Python and the packages: versions against what bertpipe asks for, text encoding, threads.

In: the installed packages' metadata, the environment. Out: findings. What always holds: no package is imported
to learn its version.
"""

import locale
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from pipeline.doctor.findings import Finding
from pipeline.processes import available_cores

PACKAGE = "bertpipe"
# Pairs that pip lets stand together and that don't work together: both conditions, and what happens.
BAD_PAIRS = (
    # hiyouga/LlamaFactory#4271
    (("torch", ">=2.4"), ("deepspeed", "<=0.14.0"), "DeepSpeed fails to import"),
    # NumPy 2 has another binary interface; torch is built against it since 2.3.
    (("torch", "<2.3"), ("numpy", ">=2"), "torch can't exchange arrays with NumPy"),
)


def look_at_python() -> Iterator[Finding]:
    """The interpreter against the range that bertpipe asks for."""
    from packaging.specifiers import SpecifierSet

    here = platform.python_version()
    try:
        wanted = metadata(PACKAGE)["Requires-Python"] or ""
    except PackageNotFoundError:
        yield Finding(
            name="python",
            state="warning",
            found=f"{here} at {sys.executable}, where bertpipe isn't installed",
            remedy="run `make install`, or pip install .",
        )
        return
    good = SpecifierSet(wanted).contains(here, prereleases=True)
    yield Finding(
        name="python",
        state="ok" if good else "error",
        found=f"{here} at {sys.executable}",
        remedy="" if good else f"bertpipe needs {wanted}: make the environment with such a Python",
    )


def look_at_packages() -> Iterator[Finding]:
    """Every package that bertpipe requires: installed, and in range; and pairs known to be bad."""
    try:
        wanted = requires(PACKAGE) or []
    except PackageNotFoundError:
        return
    yield from judge_packages(wanted, installed_version)
    yield from judge_pairs(installed_version)


def judge_packages(wanted: list[str], installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """A finding a package that is missing or out of range, or one for all."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in wanted]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    good = 0
    for one in needed:
        here = installed(one.name)
        if here is None:
            found = f"{one.name} isn't installed"
        elif not one.specifier.contains(here, prereleases=True):
            found = f"{one.name} {here}, and bertpipe is tested with {one.specifier}"
        else:
            good += 1
            continue
        remedy = f"pip install '{one.name}{one.specifier}'"
        yield Finding(name="packages", state="error", found=found, remedy=remedy)
    if good == len(needed):
        yield Finding(name="packages", state="ok", found=f"{good} installed, all in range")


def judge_pairs(installed: Callable[[str], str | None]) -> Iterator[Finding]:
    """A finding a pair of packages that don't work together."""
    from packaging.specifiers import SpecifierSet

    for one, other, what_happens in BAD_PAIRS:
        versions = [installed(name) for name, _ in (one, other)]
        if all(
            here is not None and SpecifierSet(range_).contains(here, prereleases=True)
            for here, (_, range_) in zip(versions, (one, other), strict=True)
        ):
            yield Finding(
                name="packages",
                state="error",
                found=f"{one[0]} {versions[0]} with {other[0]} {versions[1]}: {what_happens}",
                remedy="take the versions that constraints.txt pins (`make install`)",
            )


def installed_version(name: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look_at_encoding() -> Iterator[Finding]:
    """Whether text is UTF-8 where Python doesn't say so itself."""
    yield judge_encoding(locale.getencoding(), sys.getfilesystemencoding())


def judge_encoding(text: str, names: str) -> Finding:
    """text: the locale's encoding; names: that of file names."""
    good = all(one.lower().replace("-", "").replace("_", "") == "utf8" for one in (text, names))
    return Finding(
        name="encoding",
        state="ok" if good else "warning",
        found=f"text {text}, file names {names}",
        remedy="" if good else "export PYTHONUTF8=1 LC_ALL=C.UTF-8",
    )


def look_at_threads() -> Iterator[Finding]:
    """How many threads a rank computes with."""
    yield judge_threads(os.environ, available_cores())


def judge_threads(environment: Mapping[str, str], cores: int) -> Finding:
    """OMP_NUM_THREADS against the cores that this process may use."""
    said = environment.get("OMP_NUM_THREADS")
    if said is None:
        found = f"OMP_NUM_THREADS isn't set: local ranks share {cores} core(s) evenly"
        return Finding(name="threads", state="ok", found=found)
    if not said.isdigit() or not int(said):
        return Finding(
            name="threads",
            state="warning",
            found=f"OMP_NUM_THREADS is {said!r}",
            remedy="unset it, or give a whole number of threads a rank",
        )
    good = int(said) <= cores
    return Finding(
        name="threads",
        state="ok" if good else "warning",
        found=f"OMP_NUM_THREADS is {said}, for {cores} core(s)",
        remedy="" if good else "unset it: threads that fight over cores are slower than fewer",
    )
