"""What a network is trained to do: the objectives that a recipe may name.

In: a name. Out: an `Objective`: how pairs are laid out as sequences, what is asked of a pair, which way a token may
look. What always holds: all are trained from the same shards; nothing else compares an objective's name.

    mlm+nsp   masked tokens, and whether B follows A (Devlin et al. 2018, arXiv 1810.04805)
    mlm+sop   masked tokens, and whether A and B stand in their order (Lan et al. 2019, ALBERT, arXiv 1909.11942)
    mlm       masked tokens alone, in text laid to the full length (Liu et al. 2019, RoBERTa, arXiv 1907.11692)
    ltr       each next token, from those on its left (Radford et al. 2018), in text laid to the full length

Example:
    OBJECTIVES["mlm+sop"].pair_task → "sop"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

# The names that tasks have in metrics, and in full.
_PAIR_TASKS = {"next": "nsp", "order": "sop"}
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "mlm": "masked language modelling",
        "ltr": "left-to-right language modelling",
        "nsp": "next-sentence prediction",
        "sop": "sentence-order prediction",
    }
)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One of `OBJECTIVES`.

    layout: `pair`, a pair a sequence, [CLS] A [SEP] B [SEP]; `text`, pairs one after another, cut into sequences of
        the full length, [CLS] … [SEP]
    pair_label: what is asked of a pair: is B A's `next`, are both in their `order`; None for nothing
    causal: whether a token sees those on its left alone, and the next one is asked, nothing being masked
    source: where it was published
    """

    name: str
    layout: Literal["pair", "text"]
    pair_label: Literal["next", "order"] | None
    causal: bool
    source: str

    @property
    def token_task(self) -> str:
        """The name of what is asked of tokens, as figures have it: `mlm` or `ltr`."""
        return "ltr" if self.causal else "mlm"

    @property
    def pair_task(self) -> str | None:
        """The name of what is asked of pairs, as figures have it: `nsp` or `sop`; None for nothing."""
        return None if self.pair_label is None else _PAIR_TASKS[self.pair_label]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Both, as far as there are both."""
        return (self.token_task,) if self.pair_task is None else (self.token_task, self.pair_task)

    def figures(self, token: Mapping[str, float], pair: Mapping[str, float]) -> dict[str, float]:
        """Figures under the names that metrics have: `{"loss": 9.7}` of tokens is `mlm_loss`.

        pair: of pairs; left out where nothing is asked of them
        """
        return {
            f"{task}_{name}": value
            for task, values in zip(self.tasks, (token, pair), strict=False)
            for name, value in values.items()
        }


_DEVLIN = "Devlin et al. 2018, arXiv 1810.04805"
MLM_NSP = Objective(name="mlm+nsp", layout="pair", pair_label="next", causal=False, source=_DEVLIN)
_MLM_SOP = Objective(
    name="mlm+sop",
    layout="pair",
    pair_label="order",
    causal=False,
    source=f"{_DEVLIN}; Lan et al. 2019, arXiv 1909.11942",
)
_MLM = Objective(
    name="mlm",
    layout="text",
    pair_label=None,
    causal=False,
    source=f"{_DEVLIN}, on running text as in Liu et al. 2019, arXiv 1907.11692",
)
_LTR = Objective(name="ltr", layout="text", pair_label=None, causal=True, source="Radford et al. 2018")

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {objective.name: objective for objective in (MLM_NSP, _MLM_SOP, _MLM, _LTR)}
)
