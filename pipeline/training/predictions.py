"""What the network puts into a few fixed sentences' gaps: a curve says how good it is, these say at what.

In: the recipe's sentences with [MASK], or some of the held-out pairs; the network at an evaluation. Out: a line of
`RUN/predictions.jsonl`. What always holds: the same sentences at every evaluation; every rank takes part in one forward
pass (ZeRO 3 hangs otherwise), the first writes; no generator is touched, so training goes on as if nothing had been
asked; a step stands once, since a line is written behind those of smaller steps.

A sentence stands alone, as [CLS] sentence [SEP]. Left to right, what follows the words before the gap is asked.

Example:
    predictor = Predictor(plan, world, "cpu")
    predictor.record(engine.network, step=100)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.batches.sequences import IGNORED
from pipeline.corpus.shards import read_block
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.errors import RunFailed
from pipeline.policies import MASK
from pipeline.progress import say
from pipeline.tracking.spool import PREDICTIONS
from pipeline.training.metrics import MetricsLog
from pipeline.training.plan import Plan
from pipeline.training.world import World, sum_over_ranks

if TYPE_CHECKING:
    import torch

_SHOWN = 5
# Of the held-out pairs: so many sentences, of so many tokens, with a gap where a word of so many letters stood.
_CHOSEN = 4
_SHORTEST, _LONGEST = 8, 24
_LETTERS = 3
# Tokens of a sentence at most, and sentences; beyond them the ranks' common table does not reach.
_MOST_TOKENS, _MOST_SENTENCES = 128, 16


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """Token ids without [CLS] and [SEP].

    expected: at each [MASK] the id that stood there; -1 where nobody knows
    """

    ids: tuple[int, ...]
    expected: tuple[int, ...]


class Predictor:
    """Asks a run's network about fixed sentences."""

    def __init__(self, plan: Plan, world: World, device: str) -> None:
        self._plan, self._world, self._device = plan, world, device

    def record(self, network: Any, step: int, *, branch: int = 0) -> None:
        """Ask, and write a line for `step`; every rank calls it.

        network: the engine's
        branch: how often the run was rolled back before

        Raises RunFailed where the disk refuses.
        """
        if not self._sentences:
            return
        found = _ask(network, self._given(), self._device)
        if not self._world.is_first:
            return
        line = {"step": step, "time": round(time.time(), 3), "predictions": self._in_words(found)}
        # What stands behind was trained before a resume or a rollback, and is trained again.
        with MetricsLog(Path(self._plan.recipe.run), after=step - 1, name=PREDICTIONS) as log:
            log.append(line | ({"branch": branch} if branch else {}))

    @cached_property
    def _sentences(self) -> list[Sentence]:
        """Chosen by the first rank for all: another may see another disk."""
        table = np.zeros((_MOST_SENTENCES, 2 * _MOST_TOKENS + 2), np.float64)
        if self._world.is_first:
            for row, sentence in enumerate(self._chosen()[:_MOST_SENTENCES]):
                # Counted from 1, so that nothing is nothing.
                table[row, 0], table[row, 1] = len(sentence.ids), len(sentence.expected)
                table[row, 2 : 2 + len(sentence.ids)] = sentence.ids
                table[row, 2 + _MOST_TOKENS : 2 + _MOST_TOKENS + len(sentence.expected)] = sentence.expected
        shared = np.array(sum_over_ranks(table.ravel().tolist(), self._device)).reshape(table.shape)
        rows = shared.astype(np.int64).tolist()
        return [
            Sentence(
                ids=tuple(row[2 : 2 + row[0]]),
                expected=tuple(row[2 + _MOST_TOKENS : 2 + _MOST_TOKENS + row[1]]),
            )
            for row in rows
            if row[0]
        ]

    def _chosen(self) -> list[Sentence]:
        longest = min(_MOST_TOKENS, self._plan.model.max_positions - 2)
        asked, vocabulary = self._plan.recipe.evaluate.sentences, self._plan.vocabulary
        if asked is not None:
            return [sentence for text in asked if (sentence := encode(text, vocabulary, longest)) is not None]
        source = self._plan.sources[0][0]
        try:
            block = read_block(source.folder, source.manifest.of_split("validation")[0], 0)
        except (RunFailed, IndexError) as error:
            say(f"warning: no sentences to predict words of ({error})")
            return []
        segments = (
            block.tokens[start : start + length].tolist()
            for start, length in zip(block.offsets.tolist(), block.a_lengths.tolist(), strict=False)
        )
        return choose(segments, vocabulary, longest)

    def _given(self) -> "dict[str, Any]":
        """The sentences as the network's arguments; left to right each ends before its first gap."""
        vocabulary, causal = self._plan.vocabulary, self._plan.objective.causal
        tokens: list[int] = []
        starts, positions, gaps, labels = [0], list[int](), list[int](), list[int]()
        for sentence in self._sentences:
            ids = [vocabulary.cls_id, *sentence.ids, vocabulary.sep_id]
            if causal:
                ids = ids[: ids.index(vocabulary.mask_id)]
                gaps.append(len(tokens) + len(ids) - 1)
                labels += sentence.expected[:1]
            else:
                gaps += [len(tokens) + at for at, token in enumerate(ids) if token == vocabulary.mask_id]
                labels += sentence.expected
            tokens += ids
            positions += range(len(ids))
            starts.append(len(tokens))
        return {
            "tokens_T": np.array(tokens, np.int64),
            "segments_T": np.zeros(len(tokens), np.int64),
            "positions_T": np.array(positions, np.int64),
            "sequence_starts_B1": np.array(starts, np.int32),
            "longest": int(np.diff(starts).max()),
            "masked_positions_M": np.array(gaps, np.int64),
            "masked_labels_M": np.where(np.array(labels) < 0, IGNORED, np.array(labels)),
            "next_labels_B": np.full(len(self._sentences), IGNORED, np.int64),
        }

    def _in_words(self, found: "torch.Tensor") -> list[dict[str, Any]]:
        """What `predictions.jsonl` holds: a sentence's text, and for each gap the likeliest tokens."""
        vocabulary, causal = self._plan.vocabulary, self._plan.objective.causal
        best = found.float().softmax(-1).topk(min(_SHOWN, vocabulary.size))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        told = []
        for sentence in self._sentences:
            expected = sentence.expected[:1] if causal else sentence.expected
            guesses = [
                [
                    [vocabulary.tokens[token], round(share, 4)]
                    for token, share in zip(*next(rows), strict=True)
                ]
                for _ in expected
            ]
            words = ["" if token < 0 else vocabulary.tokens[token] for token in expected]
            told.append({"text": in_words(sentence.ids, vocabulary), "expected": words, "found": guesses})
        return told


def encode(text: str, vocabulary: Vocabulary, longest: int) -> Sentence | None:
    """A user's sentence; None where its first gap lies beyond the longest."""
    ids: list[int] = []
    for number, part in enumerate(text.split(MASK)):
        if number:
            ids.append(vocabulary.mask_id)
        ids += vocabulary.tokenizer.encode(part, add_special_tokens=False).ids
    ids = ids[:longest]
    gaps = ids.count(vocabulary.mask_id)
    return Sentence(ids=tuple(ids), expected=(-1,) * gaps) if gaps else None


def choose(segments: Any, vocabulary: Vocabulary, longest: int) -> list[Sentence]:
    """The first few segments of fitting length, each with a gap where its middlemost whole word stood.

    segments: of held-out pairs, as token ids
    """
    chosen: list[Sentence] = []
    pieces = set(vocabulary.continuing_ids)
    for ids in segments:
        if not _SHORTEST <= len(ids) <= min(_LONGEST, longest):
            continue
        middle = len(ids) / 2
        words = [
            at
            for at, token in enumerate(ids)
            if at
            and token not in pieces
            and (at + 1 == len(ids) or ids[at + 1] not in pieces)
            and vocabulary.tokens[token].isalpha()
            and len(vocabulary.tokens[token]) >= _LETTERS
        ]
        if not words:
            continue
        gap = min(words, key=lambda at: abs(at - middle))
        hidden = (*ids[:gap], vocabulary.mask_id, *ids[gap + 1 :])
        chosen.append(Sentence(ids=hidden, expected=(ids[gap],)))
        if len(chosen) == _CHOSEN:
            break
    return chosen


def in_words(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Tokens as text: pieces joined to the word that they continue."""
    pieces = set(vocabulary.continuing_ids)
    words: list[str] = []
    for token in ids:
        if token in pieces and words:
            words[-1] += vocabulary.tokens[token].removeprefix("##")
        else:
            words.append(vocabulary.tokens[token])
    return " ".join(words)


def _ask(network: Any, given: dict[str, Any], device: str) -> "torch.Tensor":
    """The logits at the gaps. By way of the whole forward pass: under ZeRO 3 nothing else gathers what it needs."""
    import torch

    tensors = {
        name: torch.as_tensor(value, device=device) if isinstance(value, np.ndarray) else value
        for name, value in given.items()
    }
    seen: list[torch.Tensor] = []
    head = getattr(network, "module", network).mlm_head
    # Before the head's own turn, when what it needs has been gathered, and not let go of.
    hook = head.register_forward_pre_hook(
        lambda module, given: seen.append(module.logits(given[0], given[1]).cpu())
    )
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(**tensors)
    finally:
        hook.remove()
        network.train(training)
    return seen[0]
