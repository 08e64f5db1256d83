"""Pictures for a run's page: what its shards hold, and how it learned. The one door to matplotlib.

In: a shard folder; the steps on record. Out: PNG bytes. What always holds: no display is needed and no state is shared
with other figures; a picture of a million steps is drawn of a few thousand.

Example:
    of_shards("SHARDS/128")["128/label_balance.png"]
"""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.corpus.inspection import length_histogram
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.shards import SPLITS
from pipeline.tracking.run_page import without_secrets
from pipeline.tracking.spool import METRICS, read_thinned

_INK, _ACCENT, _QUIET = "#1f2937", "#2563eb", "#d97706"
# Points of a curve: more than a picture has columns.
_POINTS = 2000


def of_shards(folder: str) -> dict[str, bytes]:
    """Label balance and lengths of a folder's pairs, by file name.

    Raises InputError or RunFailed where the folder can't be read.
    """
    manifest = read_manifest(folder)
    name = storage.last_name(folder.rstrip("/"))
    return {
        f"{name}/label_balance.png": _label_balance(without_secrets(folder), manifest),
        f"{name}/lengths.png": _lengths(without_secrets(folder), folder, manifest),
    }


def _label_balance(title: str, manifest: Manifest) -> bytes:
    figure, axes = _empty(title, height=2.2)
    sides = [split for split in SPLITS if manifest.pairs(split)]
    for row, split in enumerate(sides):
        pairs = manifest.pairs(split)
        share = manifest.of_split(split).total("random_next") / pairs
        axes.barh(row, 1 - share, color=_ACCENT, height=0.6)
        axes.barh(row, share, left=1 - share, color=_QUIET, height=0.6)
        axes.text(
            (1 - share) / 2, row, f"actual next {1 - share:.2%}", ha="center", va="center", color="white"
        )
        axes.text(1 - share / 2, row, f"random next {share:.2%}", ha="center", va="center", color="white")
    labels = [f"{split}\n{manifest.pairs(split):,} pairs" for split in sides]
    axes.set_yticks(range(len(sides)), labels)
    axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
    return _png(figure)


def _lengths(title: str, folder: str, manifest: Manifest) -> bytes:
    found = length_histogram(folder, manifest, seed=0)
    figure, axes = _empty(title, height=3.2)
    edges = [each["from"] - 1 for each in found["bins"]]
    widths = [each["to"] - each["from"] + 1 for each in found["bins"]]
    shares = [each["pairs"] / max(1, found["pairs"]) for each in found["bins"]]
    axes.bar(edges, shares, widths, align="edge", color=_ACCENT, edgecolor="white")
    axes.set_xlabel(
        f"tokens of a sequence, of {manifest.max_seq_length} possible ({found['pairs']:,} pairs looked at)"
    )
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:.0%}")
    return _png(figure)


def learning_curves(run: Path) -> bytes | None:
    """Losses of training and of held-out pairs by step; None where no step is on record."""
    lines = _marked(read_thinned(run / METRICS, most=_POINTS, keep=b"held_out_"))
    if not lines:
        return None
    figure, axes = _empty(str(run), height=4.0)
    for name in _names(lines, suffix="loss"):
        held_out = name.startswith("held_out_")
        points = [(line["step"], line[name]) for line in lines if name in line]
        steps, values = zip(*points, strict=True)
        label = name.replace("held_out_", "held out: ").replace("_loss", " loss")
        axes.plot(steps, values, label=label, linewidth=1.6 if held_out else 1.0, marker="o" if held_out else None,
                  markersize=3, alpha=1.0 if held_out else 0.8)  # fmt: skip
    for line in lines:
        if line.get("first_of_branch"):
            axes.axvline(line["step"], color=_INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel("step")
    axes.set_ylabel("nats")
    axes.legend(frameon=False, fontsize=8)
    return _png(figure)


def _marked(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines, and which of them begins another history."""
    marked: list[dict[str, Any]] = []
    branch = 0
    for line in lines:
        marked.append({**line, "first_of_branch": line.get("branch", 0) != branch})
        branch = line.get("branch", 0)
    return marked


def _names(lines: Iterable[Mapping[str, Any]], *, suffix: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line if name.endswith(suffix)))


def _empty(title: str, *, height: float) -> tuple[Any, Any]:
    """A figure and its axes; height in inches."""
    import logging

    # It would tell of its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=9, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
