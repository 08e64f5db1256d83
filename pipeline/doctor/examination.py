"""`bertpipe doctor`: what this machine can do, what a recipe would need, and DeepSpeed's ops built beforehand.

In: maybe a recipe, GPUs to plan for, a folder for ops. Out: a line a check (`ok|warning|error`, what was found, the
remedy), or a table of DeepSpeed configurations, or built ops. What always holds: it answers within seconds, whatever
hangs; it changes nothing, unless it is told to prepare; an error among the findings, and a recipe that doesn't fit,
make it fail.

Example:
    run(DoctorConfig(recipe="recipes/large.yaml", gpus="8x80GB"))
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.counts import parameter_count
from pipeline.doctor import accelerators, machine, services, software
from pipeline.doctor.findings import Check, Finding, examine
from pipeline.doctor.fit import BERT_VOCABULARY, Fit, as_json, fit, own_devices, parse_gpus, verdict
from pipeline.doctor.prepare import prepare
from pipeline.errors import Echo, InputError
from pipeline.recipe import Recipe, read_recipe
from pipeline.training.memory import gib
from pipeline.training.ops import extensions_folder
from pipeline.training.settings import ZeroSettings, read_settings

if TYPE_CHECKING:
    from rich.text import Text

# torch may come from a slow network disk.
_SECONDS_FOR_TORCH = 60.0
_COLOURS = {"ok": "green", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What is asked.

    recipe: a recipe's path, or None; overrides: its `key=value`s
    gpus: devices to plan for, e.g. `8x80GB`; None for this machine's own
    build: whether to build DeepSpeed's ops
    extensions: the folder for them; None for `extensions_folder()`
    json: print for a machine
    """

    recipe: str | None = None
    overrides: Sequence[str] = ()
    gpus: str | None = None
    build: bool = False
    extensions: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.overrides and self.recipe is None:
            raise InputError(
                f"{self.overrides[0]!r} changes a recipe, and none is given; add --recipe RECIPE.yaml"
            )
        if self.gpus is not None and self.recipe is None:
            raise InputError(f"--gpus {self.gpus} plans for a recipe; add --recipe RECIPE.yaml")
        if self.build and self.gpus is not None:
            raise InputError("--prepare builds for this machine, --gpus plans for another; give one of them")


def run(config: DoctorConfig) -> None:
    """Look, and print; raises InputError on a wrong recipe or flag, RunFailed where an op can't be built.

    Ends with exit code 1 where a finding is an error or the recipe doesn't fit.
    """
    recipe = read_recipe(config.recipe, config.overrides) if config.recipe else None
    settings = read_settings(recipe.deepspeed) if recipe else None
    folder = config.extensions or extensions_folder()
    if config.build:
        built = prepare(folder.absolute(), settings)
        if config.json:
            print(json.dumps({"extensions": str(folder.absolute()), "ops": built}, indent=1))
        return
    findings = [] if config.gpus is not None else examine(_checks(recipe, settings, folder))
    planned = None
    if recipe:
        planned = fit(recipe, parse_gpus(config.gpus) if config.gpus is not None else own_devices())
    if config.json:
        print(
            json.dumps(
                {
                    "findings": [asdict(finding) for finding in findings],
                    "fit": as_json(planned) if planned else None,
                },
                indent=1,
                ensure_ascii=False,
            )
        )
    else:
        _print(findings, planned)
    if any(finding.state == "error" for finding in findings) or (planned and not planned.own_fits):
        raise Echo(1)


def _checks(recipe: Recipe | None, settings: ZeroSettings | None, folder: Path) -> list[Check]:
    """What is looked at, in the order of the lines."""
    run_folder = Path(recipe.run) if recipe else None
    checks = [
        Check("python", software.look_at_python),
        Check("packages", software.look_at_packages),
        Check("torch", accelerators.look_at_torch, _SECONDS_FOR_TORCH),
        Check("deepspeed", lambda: accelerators.look_at_deepspeed(settings, folder), _SECONDS_FOR_TORCH),
        Check("cpu", machine.look_at_cores),
        Check("threads", software.look_at_threads),
        Check("shared memory", machine.look_at_shared_memory),
        Check("disk here", lambda: machine.look_at_disk("disk here", Path.cwd())),
        Check(
            "disk TMPDIR",
            lambda: machine.look_at_disk("disk TMPDIR", Path(tempfile.gettempdir()), least=1 << 30),
        ),
        Check("encoding", software.look_at_encoding),
        Check("slurm", services.look_at_slurm, 8.0),
        Check(
            "tracking",
            lambda: services.look_at_tracking(
                recipe.tracking.uri if recipe else None,
                run_folder.absolute().parent if run_folder else None,
            ),
        ),
    ]
    if recipe and run_folder:
        least = checkpoints_of(recipe)
        run_disk = Check("disk of run", lambda: machine.look_at_disk("disk of run", run_folder, least=least))
        checks.insert([check.name for check in checks].index("encoding"), run_disk)
    return checks


def checkpoints_of(recipe: Recipe) -> int:
    """Bytes that a run's checkpoints take at most: those that stay, and one more while it is written."""
    # Weights, their fp32 copy, and two moments: up to 16 bytes a parameter.
    return (recipe.checkpoint.keep_last + 1) * 16 * parameter_count(recipe.model_config(BERT_VOCABULARY))


def _print(findings: Sequence[Finding], planned: Fit | None) -> None:
    from rich.console import Console

    # A pipe gets whole lines, without colours.
    console = Console(soft_wrap=True, highlight=False)
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        console.print(_line(finding, width))
    if planned:
        if findings:
            console.print()
        for line in table(planned):
            console.print(line, markup=False)
        for line in verdict(planned):
            console.print(line, markup=False)


def _line(finding: Finding, width: int) -> "Text":
    from rich.text import Text

    line = Text()
    line.append(f"{finding.state:<7}", style=_COLOURS[finding.state])
    line.append(f"  {finding.name:<{width}}  ", style="bold")
    line.append(finding.found)
    if finding.remedy:
        line.append(f" — {finding.remedy}")
    return line


def table(planned: Fit) -> list[str]:
    """The configurations as aligned columns: the estimate of the phase that needs most, and what fits."""
    model = planned.model
    recomputed = ", activations recomputed" if planned.recomputes else ""
    lines = [
        f"{model.layers} layers × {model.hidden_size} on {planned.devices}, {planned.precision}{recomputed}; "
        + (
            f"no shards yet: a vocabulary of {planned.vocabulary:,} tokens is assumed"
            if planned.assumed
            else f"a vocabulary of {planned.vocabulary:,} tokens"
        )
    ]
    head = ("deepspeed", "a rank", "weights", "gradients", "optimizer", "activations", "other", "host a rank", "fits",
            "largest micro_batch a phase")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for row in planned.rows:
        if row.needs is None:
            rows.append((row.name, row.refused))
            continue
        need = row.needs
        rows.append(
            (
                row.name,
                gib(need.with_margin),
                gib(need.weights + need.master),
                gib(need.gradients),
                gib(need.optimizer),
                gib(need.activations),
                gib(need.with_margin - need.device + need.buckets + need.context),
                gib(need.host) if need.host else "–",
                "yes" if row.fits else "no",
                ", ".join("none" if size is None else str(size) for size in row.micro_batches),
            )
        )
    widths = [max(len(row[column]) for row in rows if len(row) == len(head)) for column in range(len(head))]
    for cells in rows:
        if len(cells) == len(head):
            aligned = [cells[0].ljust(widths[0])]
            aligned += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        else:
            aligned = [cells[0].ljust(widths[0]), *cells[1:]]
        lines.append("  ".join(aligned).rstrip())
    return lines
