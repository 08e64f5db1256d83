"""The stage `bertpipe inspect`: what a shard folder holds, for a person or a machine.

In: a shard folder. Out: settings, lineage, counts, label balance, a histogram of lengths, fill against
padding, and some pairs in words, on standard output; with `verify`, every block is read and checked.
What always holds: nothing is written; pairs are put into words by the vocabulary they were made with, or
not at all; a folder that fails verification ends the command as failed.

Example:
    run(InspectConfig(folder="SHARDS", pairs=4, verify=True))
"""

import json
import shutil
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import counter_random, storage
from pipeline.corpus.casing import marks_notice
from pipeline.corpus.excerpts import excerpts
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.pairs import SPECIAL_TOKENS
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import SPLITS, read_block
from pipeline.corpus.tally import dropped, filter_notes, filters_found, source_notes, text_read, unknown_note
from pipeline.corpus.verification import verify
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError, RunFailed

# Blocks read for the histogram: 65,536 pairs put each bar within 0.2 % of the whole folder's.
_SAMPLED_BLOCKS = 64
_BINS = 16
_BAR = 44  # characters of the longest bar


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What to look at."""

    folder: str
    """The shard folder."""

    pairs: int = 4
    """Pairs to show in words, half of each label as far as there are."""

    seed: int = 0
    """Decides which pairs are shown and which blocks the histogram is drawn from."""

    vocab: str | None = None
    """The vocabulary's folder; None: the one beside the shards."""

    verify: bool = False
    """Read and check every block."""

    json: bool = False
    """Print one JSON object instead."""

    def __post_init__(self) -> None:
        if self.pairs < 0:
            raise InputError(f"pairs is {self.pairs}; it must be 0 or more")


def run(config: InspectConfig) -> dict[str, Any]:
    """Print what the folder holds; returns it as the JSON form has it.

    Raises InputError where the folder holds no shards or the vocabulary is another; RunFailed where a block
    is damaged or verification finds problems.
    """
    manifest = read_manifest(config.folder)
    vocabulary = _vocabulary(config, manifest)
    # Verified first: what fails there needs its list of problems, not the error of a single block.
    problems = verify(config.folder, manifest) if config.verify else None
    report = _described(config.folder, manifest)
    if problems is not None:
        report["verified"] = {"shards": len(manifest.shards), "problems": problems}
    if not problems:
        report["lengths"] = length_histogram(config.folder, manifest, seed=config.seed)
        report["pairs"] = (
            excerpts(config.folder, manifest, vocabulary, pairs=config.pairs, seed=config.seed)
            if vocabulary is not None
            else []
        )
    print(json.dumps(report, indent=1, ensure_ascii=False) if config.json else _text(report, config.pairs))
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise RunFailed(
            f"{config.folder} failed verification: {count} ({problems[0]}); restore the files or shard again"
        )
    return report


def _vocabulary(config: InspectConfig, manifest: Manifest) -> Vocabulary | None:
    folder = config.vocab or storage.join(config.folder, "vocab")
    if config.vocab is None and not storage.exists(folder):
        return None
    vocabulary = load_vocabulary(folder, None if config.vocab is None else manifest.vocabulary["cased"])
    if vocabulary.hash != manifest.vocabulary["hash"]:
        raise InputError(
            f"{folder} is another vocabulary (hash {vocabulary.hash}) than the one of the shards (hash "
            f"{manifest.vocabulary['hash']}); name that one with --vocab"
        )
    return vocabulary


def _described(folder: str, manifest: Manifest) -> dict[str, Any]:
    """All that the manifest alone says."""
    return {
        "folder": folder,
        "hash": manifest.hash,
        **manifest.stated(),
        "splits": {
            split: _side(manifest, shards) for split in SPLITS if (shards := manifest.of_split(split))
        },
    }


def _side(manifest: Manifest, shards: ShardTable) -> dict[str, Any]:
    pairs, tokens = shards.total("pairs"), shards.total("tokens")
    mean = tokens / max(1, pairs) + SPECIAL_TOKENS
    return {
        "shards": len(shards),
        "blocks": shards.blocks,
        "bytes": shards.total("bytes"),
        "pairs": pairs,
        "tokens": tokens,
        "random_share": shards.total("random_next") / max(1, pairs),
        "mean_length": mean,
        "fill": mean / manifest.max_seq_length,
    }


def length_histogram(folder: str, manifest: Manifest, *, seed: int) -> dict[str, Any]:
    """A histogram of sequence lengths, special tokens included, over a sample of blocks that `seed` draws.

    Raises RunFailed where a block is damaged.
    """
    shards = manifest.shards
    order = counter_random.permutation(counter_random.key(seed), shards.blocks)[:_SAMPLED_BLOCKS]
    edges = np.unique(np.linspace(0, manifest.max_seq_length, _BINS + 1).round().astype(np.int64))
    counts = np.zeros(len(edges) - 1, np.int64)
    for row, index in map(shards.locate_block, order.tolist()):
        lengths = read_block(folder, shards[row], index).lengths + SPECIAL_TOKENS
        counts += np.histogram(lengths, bins=edges + 1)[0]  # a bin holds lengths edge + 1 … next edge
    return {
        "pairs": int(counts.sum()),
        "bins": [
            {"from": low + 1, "to": high, "pairs": count}
            for low, high, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
        ],
    }


def _text(report: dict[str, Any], pairs_wanted: int) -> str:
    settings, vocabulary, corpus, counts = (
        report[name] for name in ("settings", "vocabulary", "corpus", "counts")
    )
    lines = [
        f"{report['folder']}  format {report['format_version']}, hash {report['hash']}",
        *_wrapped("settings", _listed(settings)),
        *_wrapped(
            "vocabulary",
            f"{vocabulary['size']:,} tokens, {'cased' if vocabulary['cased'] else 'uncased'}, "
            f"hash {vocabulary['hash']}; {counts.get('unknown_share', 0.0):.2%} of the text's tokens are [UNK]",
        ),
        *_wrapped(
            "corpus",
            f"{counts['documents']:,} documents ({dropped(counts)}), {counts['sentences']:,} sentences; "
            f"{text_read(corpus, counts)}; fingerprint {corpus['fingerprint']}",
        ),
        *_sources(settings, counts),
        *_filters(settings, counts),
        *_additions(report),
        *_wrapped("made with", ", ".join(f"{name} {value}" for name, value in report["versions"].items())),
        "",
        *_table(report),
    ]
    if counts["balance"]:
        lines += _wrapped("balance", counts["balance"])
    if note := unknown_note(counts):
        lines += _wrapped("unknown", note)
    if note := marks_notice(counts.get("marks_lost", {})):
        lines += _wrapped("casing", note)
    if "lengths" in report:
        lines += ["", *_histogram(report["lengths"], settings["max_seq_length"])]
        tokens, pairs = counts["tokens"] + SPECIAL_TOKENS * counts["pairs"], counts["pairs"]
        fill = tokens / max(1, pairs * settings["max_seq_length"])
        lines.append(
            f"fill {fill:.1%}: left unpadded, {1 - fill:.1%} of the positions of a padded batch fall away"
        )
        if pairs_wanted and not report["pairs"]:
            lines += ["", "no pairs shown (they need the vocabulary: --vocab)"]
    for pair in report.get("pairs", ()):
        lines += ["", *_pair_text(pair)]
    if "verified" in report:
        verified = report["verified"]
        passed = f"verified: {verified['shards']} shards, {counts['pairs']:,} pairs, no problem"
        lines += ["", *(verified["problems"] or [passed])]
    return "\n".join(lines)


def _additions(report: dict[str, Any]) -> list[str]:
    """A line for each time that documents were added."""
    lines: list[str] = []
    for part in report.get("parts", ())[1:]:
        counts = part["counts"]
        said = f"{counts['documents']:,} documents ({dropped(counts)}), {counts['pairs']:,} pairs"
        lines += _wrapped("" if lines else "added", said)
    return lines


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "sources")


def _sources(settings: dict[str, Any], counts: dict[str, Any]) -> list[str]:
    """What came of each source, and how it was read."""
    lines: list[str] = []
    for name, said in source_notes(settings, counts).items():
        own = {
            key: value for key, value in settings.get("sources", {}).get(name, {}).items() if key != "weight"
        }
        lines += _wrapped("sources" if not lines else "", f"{name}: {said}; {_listed(own)}")
    return lines


def _filters(settings: dict[str, Any], counts: dict[str, Any]) -> list[str]:
    """A line a filter, and one for each of its examples."""
    lines: list[str] = []
    # Both in the order in which filters are applied.
    for said, found in zip(filter_notes(settings, counts).items(), filters_found(counts), strict=True):
        lines += _wrapped("filters" if not lines else "", f"{said[0]}: {said[1]}")
        for example in found["examples"]:
            value = f"{example['value']:g}: " if "value" in example else ""
            lines += _wrapped("", f"– {value}{example['text']}", 14)
    return lines


def _pair_text(pair: dict[str, Any]) -> list[str]:
    label = "random next (1)" if pair["random_next"] else "actual next (0)"
    place = f"{pair['shard']} block {pair['block']} row {pair['row']}"
    return [
        f"{label}  {pair['a_tokens']} + {pair['b_tokens']} tokens, {place}",
        *_wrapped("A", pair["a"], 4),
        *_wrapped("B", pair["b"], 4),
    ]


def _wrapped(title: str, text: str, indent: int = 12) -> list[str]:
    width = max(60, min(110, shutil.get_terminal_size((110, 24)).columns))
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{title:<{indent}}",
        subsequent_indent=" " * indent,
        break_long_words=False,
    )


def _table(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{'':<12}{'shards':>8}{'blocks':>8}{'pairs':>14}{'tokens':>16}{'random':>9}{'mean length':>13}{'fill':>8}"
    ]
    for split, side in report["splits"].items():
        lines.append(
            f"{split:<12}{side['shards']:>8,}{side['blocks']:>8,}{side['pairs']:>14,}{side['tokens']:>16,}"
            f"{side['random_share']:>9.2%}{side['mean_length']:>13.1f}{side['fill']:>8.1%}"
        )
    return lines


def _histogram(lengths: dict[str, Any], max_seq_length: int) -> list[str]:
    lines = [f"tokens of a sequence, of {max_seq_length} possible ({lengths['pairs']:,} pairs looked at)"]
    highest = max(1, *(each["pairs"] for each in lengths["bins"]))
    for each in lengths["bins"]:
        eighths = round(each["pairs"] / highest * _BAR * 8)
        bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
        share = each["pairs"] / max(1, lengths["pairs"])
        span = f"{each['from']}–{each['to']}"
        lines.append(f"{span:>11} {bar:<{_BAR}} {share:>6.1%}")
    return lines
