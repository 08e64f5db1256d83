"""BERT as published (Devlin et al. 2018, arXiv 1810.04805): post-LN Transformer encoder, pooler, two heads.

Its configuration may leave the pooler and the pairs' head out (`pair_head`), let tokens attend to their left alone
(`causal`), or choose another place for the LayerNorms (`norm`), another way to tell positions (`position`), another
feed-forward layer (`activation`), no biases (`bias`); docs/architecture.md has their table. All else is the same.

In: the T tokens of B sequences laid end to end, with their segments, positions and starts. Out: sums of losses
and counts of correct predictions (`forward`), hidden and pooled states (`encode`), or logits. What always
holds: nothing but attention's inner grid is computed for padding, and MLM logits only at masked positions; a
sequence's outputs do not depend on its neighbours, nor on the tail past the last sequence; every module runs
in every forward, even where nothing is masked (ZeRO 3 hangs on ranks that differ in what they run).

    >>> torch.manual_seed(1)
    >>> model = BertForPretraining(preset("mini", vocab_size=8192))
    >>> sums = model(tokens_T, segments_T, positions_T, sequence_starts_B1, longest,
    ...              masked_positions_M, masked_labels_M, next_labels_B)
    >>> loss = sums.mlm_sum / masked_in_global_batch + sums.nsp_sum / pairs_in_global_batch

Shapes: T tokens, tail included · B sequences · B1 = B + 1 · M masked positions, pads included · H hidden_size
· N heads · D size of a head · V vocab_size. Token ids, segments and positions are of any integer type.
"""

from types import MethodType
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import lay_out
from model.config import RECOMPUTED, ModelConfig
from model.dropout import Dropout
from model.encoder_layer import ENCODER_LAYERS, SelfAttention, attend_again, layer_norm
from model.heads import MlmHead, NspHead, sums
from model.rotation import rotation


class PretrainingSums(NamedTuple):
    """Scalars over a micro-batch: summed cross entropies in nats, and int64 counts of correct predictions.

    Those of the pairs' head (nsp) are exactly 0 where there is none.
    """

    mlm_sum: Tensor
    nsp_sum: Tensor
    mlm_correct: Tensor
    nsp_correct: Tensor


class Encoded(NamedTuple):
    """What the encoder makes of a micro-batch: a vector a token, and one a sequence (None without a pairs' head)."""

    hidden_TH: Tensor
    pooled_BH: Tensor | None


class Embeddings(nn.Module):
    """§3, figure 2: a token's vector is the sum of its word's, its position's and its segment's.

    Rotary positions have no vectors: attention tells them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # No padding_idx: [PAD] is never inside a sequence, and the tail has no gradient.
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position == "learned"
        self.position = nn.Embedding(config.max_positions, config.hidden_size) if learned else None
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, tokens_T: Tensor, segments_T: Tensor, positions_T: Tensor) -> Tensor:
        """The encoder's input, hidden_TH."""
        summed_TH = self.word(tokens_T)
        if self.position is not None:
            summed_TH = summed_TH + self.position(positions_T)
        hidden_TH: Tensor = self.dropout(self.norm(summed_TH + self.segment(segments_T)))
        return hidden_TH


class Pooler(nn.Module):
    """§3: a sequence's vector is [CLS]'s final hidden state, through a dense layer and tanh."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_TH: Tensor, sequence_starts_B1: Tensor) -> Tensor:
        """pooled_BH."""
        # An empty last sequence starts where the tokens end: clamped, it pools a token that nobody reads.
        first_B = sequence_starts_B1[:-1].clamp(max=hidden_TH.shape[0] - 1)
        pooled_BH: Tensor = torch.tanh(self.dense(hidden_TH.index_select(0, first_B)))
        return pooled_BH


class Bert(nn.Module):
    """Embeddings, encoder and, with a pairs' head, pooler; see `BertForPretraining` for `recompute`."""

    def __init__(self, config: ModelConfig, recompute: str = "none") -> None:
        super().__init__()
        if recompute not in RECOMPUTED:
            raise ValueError(f"recompute is {recompute!r}: give one of {', '.join(RECOMPUTED)}")
        self.config = config
        self.recompute = recompute
        self.embeddings = Embeddings(config)
        make_layer = ENCODER_LAYERS[config.norm]
        self.layers = nn.ModuleList(make_layer(config) for _ in range(config.layers))
        # Pre-LN: what the layers added up is normalised once, for the heads.
        self.final_norm = layer_norm(config) if config.norm == "pre" else nn.Identity()
        self.pooler = Pooler(config) if config.pair_head else None
        if recompute == "attention":
            for layer in self.layers:
                cast(SelfAttention, layer.attention).attend = attend_again

    def forward(
        self,
        tokens_T: Tensor,
        segments_T: Tensor,
        positions_T: Tensor,
        sequence_starts_B1: Tensor,
        longest: int,
    ) -> Encoded:
        """Hidden states of all tokens (those of the tail mean nothing) and pooled states of all sequences."""
        if longest > self.config.max_positions:
            raise ValueError(
                f"a sequence of {longest} tokens is longer than max_positions {self.config.max_positions}"
            )
        layout = lay_out(
            tokens=tokens_T.shape[0],
            sequence_starts_B1=sequence_starts_B1,
            longest=longest,
            heads=self.config.heads,
            head_size=self.config.head_size,
            precision=self.embeddings.word.weight.dtype,
        )
        rotary = self.config.position == "rotary"
        turn = rotation(positions_T, self.config.head_size) if rotary else None
        hidden_TH = self.embeddings(tokens_T, segments_T, positions_T)
        for layer in self.layers:
            if self.recompute == "full" and self.training:
                hidden_TH = checkpoint(layer, hidden_TH, layout, turn, use_reentrant=False)
            else:
                hidden_TH = layer(hidden_TH, layout, turn)
        hidden_TH = self.final_norm(hidden_TH)
        if self.pooler is None:
            return Encoded(hidden_TH, None)
        return Encoded(hidden_TH, self.pooler(hidden_TH, sequence_starts_B1))


class BertForPretraining(nn.Module):
    """BERT with its heads (§3.1). Weights are drawn from torch's generator: seed it before.

    `encode` and the `…_logits` are for evaluation, conversion and proofs; under ZeRO 3 only `forward` gathers
    all that it needs.

    recompute: what is not kept for the backward pass but computed again (activation checkpointing, Chen et al. 2016,
        arXiv 1604.06174), dropout's masks included: the same gradient, in less memory. "full": all of a layer but its
        input, for a third more arithmetic; "attention": what attention makes of queries, keys and values (Korthikanti
        et al. 2022, arXiv 2205.05198, §5): all that grows with the square of a sequence's length
    """

    def __init__(self, config: ModelConfig, *, recompute: str = "none") -> None:
        super().__init__()
        self.config = config
        self.bert = Bert(config, recompute)
        self.mlm_head = MlmHead(config)
        self.nsp_head = NspHead(config) if config.pair_head else None
        self.apply(self._initialise)

    def forward(
        self,
        tokens_T: Tensor,
        segments_T: Tensor,
        positions_T: Tensor,
        sequence_starts_B1: Tensor,
        longest: int,
        masked_positions_M: Tensor,
        masked_labels_M: Tensor,
        next_labels_B: Tensor,
    ) -> PretrainingSums:
        """Losses and correct predictions of both objectives, summed over labels other than −100.

        sequence_starts_B1: sequence b is tokens [starts[b], starts[b + 1]); those past the last, the tail.
        longest: length of the longest sequence, a host integer.
        masked_positions_M: indices into the T tokens; pads may point at any token. M may be 0.
        masked_labels_M: int64, the original tokens' ids; −100 for pads.
        next_labels_B: int64, a pair's label, 0 or 1 (1 where B is random, or the segments are swapped); −100 for
            pads. Not looked at without a pairs' head.
        """
        hidden_TH, pooled_BH = self.bert(tokens_T, segments_T, positions_T, sequence_starts_B1, longest)
        hidden_MH = hidden_TH.index_select(0, masked_positions_M)
        mlm_sum, mlm_correct = self.mlm_head(hidden_MH, self.bert.embeddings.word.weight, masked_labels_M)
        if pooled_BH is None:
            return PretrainingSums(
                mlm_sum, torch.zeros_like(mlm_sum), mlm_correct, torch.zeros_like(mlm_correct)
            )
        nsp_sum, nsp_correct = sums(self.nsp_logits(pooled_BH), next_labels_B)
        return PretrainingSums(mlm_sum, nsp_sum, mlm_correct, nsp_correct)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have torch compile the encoder's layers when they first run: one code for all, whatever the shapes.

        Element-wise work (biases, GELU, dropout, sums, LayerNorms) is then fused. Dropout's masks are others, drawn by
        the compiled code, and a function of torch's seed as well.
        """
        forward = torch.compile(type(self.bert.layers[0]).forward, dynamic=True, backend=backend)
        for layer in self.bert.layers:
            attention = cast(SelfAttention, layer.attention)
            # It has a kernel of its own on each device; on CPUs one whose steps differ from batch to batch.
            attention.attend = torch.compiler.disable(attention.attend)
            layer.forward = MethodType(forward, layer)

    def encode(
        self,
        tokens_T: Tensor,
        segments_T: Tensor,
        positions_T: Tensor,
        sequence_starts_B1: Tensor,
        longest: int,
    ) -> Encoded:
        """hidden_TH and pooled_BH of a micro-batch; see `forward` for the arguments."""
        encoded: Encoded = self.bert(tokens_T, segments_T, positions_T, sequence_starts_B1, longest)
        return encoded

    def mlm_logits(self, hidden_TH: Tensor, positions_M: Tensor) -> Tensor:
        """Logits over the vocabulary at the given tokens, logits_MV."""
        hidden_MH = hidden_TH.index_select(0, positions_M)
        return self.mlm_head.logits(hidden_MH, self.bert.embeddings.word.weight)

    def nsp_logits(self, pooled_BH: Tensor) -> Tensor:
        """Logits of a pair's two labels ("B follows A" is 0, "B is random" 1), logits_B2.

        Raises `ValueError` where the network has no pairs' head.
        """
        if self.nsp_head is None:
            raise ValueError("this network has no head for pairs: its configuration has pair_head False")
        logits_B2: Tensor = self.nsp_head(pooled_BH)
        return logits_B2

    def _initialise(self, module: nn.Module) -> None:
        # §A.2 names no distribution; the published code draws from a normal of deviation 0.02 cut at two
        # deviations, Hugging Face's from a plain one, as here. LayerNorms start as the identity.
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
