"""The vocabulary as masking and laying out see it: which ids are special, which continue a word.

In: a vocabulary. Out: `SpecialIds`, small enough to travel to every worker. What always holds: a special
token is never one that continues a word.

Example:
    special = SpecialIds.of(vocabulary)
    special.is_special[tokens]
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.corpus.vocabulary import Vocabulary


# What a token is, as bits of `SpecialIds.kinds`.
SPECIAL, CONTINUING = np.uint8(1), np.uint8(2)


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """What masking must know of a vocabulary.

    size: tokens in the vocabulary
    special_ids: those never masked and never drawn: [PAD] [UNK] [CLS] [SEP] [MASK] and every [unusedN]
    continuing_ids: those that continue the word before them, the `##` pieces; the others begin one

    Raises InputError where nothing is left to draw from.
    """

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special_ids: tuple[int, ...]
    continuing_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not {self.pad_id, self.cls_id, self.sep_id, self.mask_id} <= set(self.special_ids):
            raise InputError("[PAD], [CLS], [SEP] and [MASK] must be among the vocabulary's special ids")
        for name, ids in (("special", self.special_ids), ("continuing", self.continuing_ids)):
            if not all(0 <= each < self.size for each in ids):
                raise InputError(f"a {name} id lies outside the vocabulary of {self.size} tokens")
        if not len(self.replaceable):
            raise InputError(f"all {self.size} tokens of the vocabulary are special; none is left to mask")

    @classmethod
    def of(cls, vocabulary: "Vocabulary") -> "SpecialIds":
        """Those of a vocabulary."""
        return cls(
            size=vocabulary.size,
            pad_id=vocabulary.pad_id,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            mask_id=vocabulary.mask_id,
            special_ids=tuple(vocabulary.special_ids),
            continuing_ids=vocabulary.continuing_ids,
        )

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """For each id of the vocabulary, whether it is special."""
        return self._table(self.special_ids)

    @cached_property
    def is_continuing(self) -> NDArray[np.bool_]:
        """For each id of the vocabulary, whether it continues the word before it."""
        return self._table(self.continuing_ids) & ~self.is_special

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:
        """For each id of the vocabulary, `SPECIAL` or `CONTINUING` or neither: one look-up for both."""
        return np.where(self.is_special, SPECIAL, np.where(self.is_continuing, CONTINUING, np.uint8(0)))

    @cached_property
    def replaceable(self) -> NDArray[np.int32]:
        """The ids that replacements are drawn from, ascending."""
        return np.flatnonzero(~self.is_special).astype(np.int32)

    def _table(self, ids: tuple[int, ...]) -> NDArray[np.bool_]:
        table = np.zeros(self.size, np.bool_)
        table[list(ids)] = True
        return table
