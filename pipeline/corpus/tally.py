"""What the shards came to: counts for the manifest, and a few lines for a person.

In: spills and finished shards. Out: the manifest's `corpus` and `counts`, and a summary.
What always holds: a random share off one half by more than 1 % comes with the reason; so do labels that
lengths give away, and text that the vocabulary doesn't know.

Example:
    corpus, counts = tally(spills, reduced)
    counts["random_share"]  # 0.500012
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.corpus.casing import Letters, marks_notice
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.filter_counts import as_plain, describe, dropped_documents, from_plain, merge_counts
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.mapper import Spill
from pipeline.corpus.pairs import PairCounts
from pipeline.corpus.reducer import Reduced
from pipeline.corpus.shards import SPLITS
from pipeline.errors import InputError
from pipeline.progress import duration

_TOLERANCE = 0.01  # of the random share around one half
# English has one in ten. From here on a model may learn "A fills the sequence" instead of "B doesn't follow".
_MANY_FORCED = 0.35
# Of [UNK] among the text's tokens: past the first it is said, past the second refused.
_MANY_UNKNOWN = 0.05
_MOSTLY_UNKNOWN = 0.5


def tally(
    spills: Sequence[Spill], reduced: Sequence[Reduced], *, dupe_factor: int = 1, sources: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's entries `corpus` and `counts`.

    sources: the names of the corpus's sources by their numbers; none where they have no names
    """
    total = PairCounts()
    sides = {split: PairCounts() for split in SPLITS}
    for each in reduced:
        total.merge(each.counts)
        sides[each.shard.split].merge(each.counts)
    letters = Letters()
    for spill in spills:
        letters.merge(Letters(spill.letters))
    counts = {
        **_counts(total),
        "dupe_factor": dupe_factor,
        **_read(spills, total.documents),
        "marks_lost": letters.lost(),
        "balance": _balance_note(total, reduced),
        "splits": {split: _counts(side) for split, side in sides.items() if side.pairs},
    }
    if sources:
        counts["left_out"] = sum(spill.left_out for spill in spills)
        counts["sources"] = _by_source(spills, total, sources)
        # A filter's limit is the source's own, and what it did stands there.
        counts.pop("filters", None)
    return _fingerprint(spills).as_dict(), counts


def _fingerprint(spills: Sequence[Spill]) -> Fingerprint:
    fingerprint = Fingerprint()
    for spill in spills:
        fingerprint.merge(spill.fingerprint)
    return fingerprint


def _read(spills: Sequence[Spill], documents: int) -> dict[str, Any]:
    """What became of the text read; `documents`: those that stayed, each once."""
    filters = as_plain(merge_counts(spill.filters for spill in spills))
    came = sum(run.documents for spill in spills for run in spill.runs)
    return {
        "duplicates": came - documents,
        "empty": sum(spill.empty for spill in spills),
        "invalid_replaced": sum(spill.replaced for spill in spills),
        "invalid_skipped": sum(spill.skipped for spill in spills),
        "unknown_share": unknown_share(spills),
        **({"filters": filters} if filters else {}),
    }


def _by_source(spills: Sequence[Spill], total: PairCounts, names: Sequence[str]) -> dict[str, Any]:
    """The same by source: documents that stayed as its own, pairs whose segment A is of it, and what was read."""
    found = {}
    for number, name in enumerate(names):
        own = [spill for spill in spills if spill.source == number]
        documents, pairs, tokens = total.sources.get(str(number), (0, 0, 0))
        read = _fingerprint(own)
        found[name] = {
            "documents": documents,
            "pairs": pairs,
            "tokens": tokens,
            "documents_read": read.documents,
            "bytes_read": read.bytes,
            "left_out": sum(spill.left_out for spill in own),
            **_read(own, documents),
        }
    return found


def _counts(counts: PairCounts) -> dict[str, Any]:
    return {
        "documents": counts.documents,
        "sentences": counts.sentences,
        "pairs": counts.pairs,
        "tokens": counts.tokens,
        "random_next": counts.random_next,
        "random_share": _share(counts.random_next, counts.pairs),
        "forced_share": _share(counts.forced, counts.pairs),
        "short_document_share": _share(counts.short_documents, counts.sets),
        "short_pair_share": _share(counts.short_pairs, counts.pairs),
    }


def merged_corpus(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The manifest's entry `corpus` of two corpora together."""
    merged = {name: one[name] + other[name] for name in ("documents", "bytes", "files", "file_bytes")}
    for name in ("fingerprint", "sample"):
        merged[name] = f"{(int(one[name], 16) + int(other[name], 16)) % (1 << 128):032x}"
    kinds = Counter(one["kinds"]) + Counter(other["kinds"])
    return merged | {"kinds": dict(sorted(kinds.items()))}


def merged_counts(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The manifest's entry `counts` of shards made at two times together; marks lost, those of the worse part."""
    merged = _merged_sides(one, other)
    # By tokens: of repeated documents, too, whose number the manifest doesn't keep.
    weights = one["tokens"], other["tokens"]
    unknown = [each.get("unknown_share", 0.0) for each in (one, other)]
    filters = merge_counts(from_plain(each.get("filters", {})) for each in (one, other))
    lost = [each.get("marks_lost", {}) for each in (one, other)]
    return merged | {
        "dupe_factor": other["dupe_factor"],
        **{
            name: one.get(name, 0) + other.get(name, 0)
            for name in ("duplicates", "empty", "invalid_replaced", "invalid_skipped")
        },
        "marks_lost": {
            script: max(each.get(script, 0.0) for each in lost) for script in sorted({*lost[0], *lost[1]})
        },
        "unknown_share": _weighted(unknown, weights),
        "balance": other["balance"] or one["balance"],
        **_merged_sources(one, other),
        "splits": {
            split: _merged_sides(*found) if len(found) == 2 else found[0]
            for split in SPLITS
            if (found := [each["splits"][split] for each in (one, other) if split in each["splits"]])
        },
        **({"filters": as_plain(filters)} if filters else {}),
    }


def _merged_sources(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The counts of sources, of both by name, and of documents that their weights left out."""
    if "sources" not in one and "sources" not in other:
        return {}
    merged: dict[str, Any] = {}
    for counts in (one.get("sources", {}), other.get("sources", {})):
        for name, new in counts.items():
            if (before := merged.get(name)) is None:
                merged[name] = new
                continue
            filters = merge_counts(from_plain(each.get("filters", {})) for each in (before, new))
            merged[name] = {
                **{key: before[key] + value for key, value in new.items() if isinstance(value, int)},
                "unknown_share": _weighted(
                    [before["unknown_share"], new["unknown_share"]], (before["tokens"], new["tokens"])
                ),
                **({"filters": as_plain(filters)} if filters else {}),
            }
    return {"left_out": one.get("left_out", 0) + other.get("left_out", 0), "sources": merged}


def _merged_sides(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = {
        name: one[name] + other[name] for name in ("documents", "sentences", "pairs", "tokens", "random_next")
    }

    def weighted(share: str, by: str) -> float:
        return _weighted([one[share], other[share]], (one[by], other[by]))

    return merged | {
        "random_share": _share(merged["random_next"], merged["pairs"]),
        "forced_share": weighted("forced_share", "pairs"),
        "short_document_share": weighted("short_document_share", "documents"),
        "short_pair_share": weighted("short_pair_share", "pairs"),
    }


def _weighted(shares: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    return round(total / sum(weights), 6) if sum(weights) else 0.0


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _balance_note(counts: PairCounts, reduced: Sequence[Reduced]) -> str | None:
    random_share, forced_share = _share(counts.random_next, counts.pairs), _share(counts.forced, counts.pairs)
    if abs(random_share - 0.5) <= _TOLERANCE:
        if forced_share <= _MANY_FORCED:
            return None
        return (
            f"{forced_share:.1%} of the pairs are random-next by force, having a chunk of one sentence, so the "
            "others are mostly actual-next and the labels follow from A's length; join short documents, split "
            "long sentences, raise --max-seq-length, or drop next-sentence prediction"
        )
    if forced_share > 0.5 - _TOLERANCE:
        return (
            f"{random_share:.1%} of the pairs are random-next instead of 50 %: {forced_share:.1%} have a "
            "chunk of one sentence, which has no next one (documents of one sentence, or sentences longer than a "
            "sequence); join such documents, split such sentences, or drop next-sentence prediction"
        )
    said = (
        f"{random_share:.1%} of the pairs are random-next instead of 50 %: {forced_share:.1%} are so by force"
    )
    if crowded := sum(each.counts.forced > each.counts.pairs / 2 for each in reduced):
        return (
            f"{said}, but more than half in {crowded} of {len(reduced)} shards, each of which is balanced alone; ask "
            "for fewer shards, or give more text"
        )
    return f"{said}, and steering the other {counts.pairs - counts.forced:,} came no closer; give more text"


def mapped(spills: Sequence[Spill], seconds: float) -> tuple[str, dict[str, Any]]:
    """What map tasks came to so far, for a person and for a machine."""
    documents = sum(spill.fingerprint.documents for spill in spills)
    rate = sum(spill.fingerprint.bytes for spill in spills) / 1e6 / max(seconds, 1e-9)
    dropped = {name: sum(getattr(spill, name) for spill in spills) for name in ("empty", "skipped")}
    said = ", ".join(f"{count:,} {name}" for name, count in dropped.items() if count)
    note = f"{documents:,} documents, {rate:.2f} MB/s{f'; dropped {said}' if said else ''}"
    return note, {"documents": documents, "megabytes_per_second": round(rate, 3), "dropped": dropped}


def check_known(spills: Sequence[Spill]) -> None:
    """Raise InputError where most tokens of the text are [UNK]."""
    share = unknown_share(spills)
    if share > _MOSTLY_UNKNOWN:
        raise InputError(
            f"{share:.1%} of the text's tokens are [UNK]: the vocabulary isn't of this text's language or "
            "casing; name another with --vocab, or leave --vocab out to train one"
        )


def unknown_share(spills: Sequence[Spill]) -> float:
    """The share of [UNK] among the tokens of the text, repeated documents included."""
    return _share(sum(spill.unknown for spill in spills), sum(spill.tokens for spill in spills))


def unknown_note(counts: dict[str, Any]) -> str | None:
    """What a person should know of the manifest's share of unknown tokens; None where it is small."""
    share = counts.get("unknown_share", 0.0)  # not in manifests of older releases
    if share <= _MANY_UNKNOWN:
        return None
    return (
        f"{share:.1%} of the text's tokens are [UNK], from which nothing is learned: the vocabulary fits the text "
        "badly; train one on it (bertpipe vocab), with --coverage nearer to 1 where it has many characters, and "
        "put spaces between words where it has none, as in Thai: over 100 characters without one are [UNK]"
    )


def dropped(counts: dict[str, Any]) -> str:
    """What became of documents that give no pairs, and of those that were no UTF-8, in a few words."""
    said = f"{counts['duplicates']:,} repeated and {counts['empty']:,} empty ones dropped"
    # Not in manifests of older releases.
    if skipped := counts.get("invalid_skipped", 0):
        said += f", {skipped:,} skipped as no UTF-8"
    if replaced := counts.get("invalid_replaced", 0):
        said += f", {replaced:,} with U+FFFD for what was no UTF-8"
    if filtered := sum(dropped_documents(each.get("filters", {})) for each in _parts(counts)):
        said += f", {filtered:,} dropped by filters"
    if left_out := counts.get("left_out", 0):
        said += f", {left_out:,} left out by weight"
    return said


def _parts(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """Where what filters did is counted: in each source, or in the counts of a corpus without any."""
    return list(counts["sources"].values()) if "sources" in counts else [counts]


def _of_source(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A source's settings; none where it was added to shards later (the manifest's `parts` have them)."""
    found: dict[str, Any] = settings.get("sources", {}).get(name, {})
    return found


def source_notes(settings: dict[str, Any], counts: dict[str, Any]) -> dict[str, str]:
    """What came of each source, in a few words; empty where the corpus has none."""
    return {
        name: f"weight {_of_source(settings, name).get('weight', 1):g}, "
        f"{each['documents']:,} documents ({dropped(each)}) of {each['bytes_read'] / 1e6:,.1f} MB read, "
        f"{each['pairs']:,} pairs "
        f"({_share(each['pairs'], counts['pairs']):.1%}), {each['unknown_share']:.2%} of tokens unknown"
        for name, each in counts.get("sources", {}).items()
    }


def filter_notes(settings: dict[str, Any], counts: dict[str, Any]) -> dict[str, str]:
    """What each filter did, in a few words, by its source, name and limit; empty where none was on."""
    if "sources" not in counts:
        return describe(counts.get("filters", {}), settings.get("filters", {}))
    return {
        f"{source}: {name}": said
        for source, each in counts["sources"].items()
        for name, said in filter_notes(_of_source(settings, source), each).items()
    }


def filters_found(counts: dict[str, Any]) -> list[dict[str, Any]]:
    """What each filter did, with its examples, in the order of `filter_notes`."""
    return [found for each in _parts(counts) for found in each.get("filters", {}).values()]


def text_read(corpus: dict[str, Any], counts: dict[str, Any]) -> str:
    """How much text all documents hold, in a few words."""
    repetitions = ", repetitions included" if counts["duplicates"] else ""
    return f"{corpus['bytes'] / 1e6:,.1f} MB of text read{repetitions}"


def headline(manifest: Manifest) -> str:
    """The shards in half a line."""
    sides = ", ".join(
        f"{manifest.pairs(split):,} pairs in {len(shards)} {split} shard{'s' if len(shards) > 1 else ''}"
        for split in SPLITS
        if (shards := manifest.of_split(split))
    )
    return f"{sides}, of up to {manifest.max_seq_length} tokens"


def summary(manifest: Manifest, *, seconds: float, continued: bool) -> list[str]:
    """What was made, for a person, a line a fact; a rate only where all was made in these seconds."""
    counts, megabytes = manifest.counts, manifest.corpus["bytes"] / 1e6
    rate = "continued" if continued else f"{megabytes / max(seconds, 1e-9):.2f} MB/s"
    lines = [
        f"documents  {counts['documents']:,} ({dropped(counts)}), {counts['sentences']:,} sentences, "
        f"{text_read(manifest.corpus, counts)}",
        *(f"source     {name}: {said}" for name, said in source_notes(manifest.settings, counts).items()),
        f"pairs      {headline(manifest)}{_copies(counts)}",
        f"labels     {counts['random_share']:.2%} random-next ({counts['forced_share']:.1%} by force)",
        f"vocabulary {counts['unknown_share']:.2%} of tokens unknown",
        f"time       {duration(seconds)}, {rate}",
        *(f"filter     {name}: {said}" for name, said in filter_notes(manifest.settings, counts).items()),
    ]
    if counts["balance"]:
        lines.append(f"balance    {counts['balance']}")
    if note := unknown_note(counts):
        lines.append(f"unknown    {note}")
    if note := marks_notice(counts["marks_lost"]):
        lines.append(f"casing     {note}")
    return lines


def facts(manifest: Manifest, *, seconds: float, continued: bool) -> dict[str, Any]:
    """The same for a machine."""
    return {
        "seconds": round(seconds, 3),
        "continued": continued,
        "corpus": manifest.corpus,
        "counts": manifest.counts,
        "shards": {split: len(manifest.of_split(split)) for split in SPLITS},
    }


def _copies(counts: dict[str, Any]) -> str:
    times = counts["dupe_factor"]
    if times == 1:
        return ""
    return f", each document {times} times {'its weight' if 'sources' in counts else 'over'}"
