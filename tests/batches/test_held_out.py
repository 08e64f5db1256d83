"""The held-out pairs: the same ones with the same masks, whoever looks at them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model.bert import BertForPretraining
from model.config import ModelConfig
from pipeline.batches.held_out import held_out_blocks, held_out_micro_batches
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import IGNORED, MicroBatch
from pipeline.batches.special_ids import SpecialIds
from pipeline.errors import InputError, RunFailed
from pipeline.objectives import OBJECTIVES
from pipeline.training.evaluate import evaluate
from workshop.small_loader import contents


def test_held_out_pairs_are_masked_at_the_last_rate(shards: Any, special: SpecialIds) -> None:
    folder, manifest = shards

    def share(masking: MaskingConfig) -> float:
        batches = list(
            held_out_micro_batches(
                folder, manifest, sequences=100, micro_batch=10, masking=masking, special=special, seed=1
            )
        )
        return sum(batch.masked for batch in batches) / sum(batch.tokens for batch in batches)

    assert share(MaskingConfig(rate=0.5, final_rate=0.2)) == share(MaskingConfig(rate=0.2))
    assert share(MaskingConfig(rate=0.5)) > 2 * share(MaskingConfig(rate=0.2))


def held_out(shards: Any, special: SpecialIds, **more: Any) -> list[MicroBatch]:
    given: dict[str, Any] = {"sequences": 77, "micro_batch": 8, "masking": MaskingConfig(), "seed": 1}
    return list(held_out_micro_batches(*shards, special=special, **(given | more)))


def test_held_out_pairs_are_the_same_whatever_ranks_and_micro_batches(
    shards: Any, special: SpecialIds
) -> None:
    alone = contents(held_out(shards, special))
    assert len(alone) == 77
    for world_size in (1, 2, 3, 7, 16):
        for micro_batch in (1, 8, 77, 100):
            ranks = [
                held_out(shards, special, micro_batch=micro_batch, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            assert len({len(batches) for batches in ranks}) == 1, "ranks call the network unequally often"
            assert contents([batch for batches in ranks for batch in batches]) == alone
    assert len(held_out(shards, special, sequences=1000, micro_batch=110)[0].samples_B) == 110
    assert contents(held_out(shards, special, seed=2)) != alone


def test_an_empty_micro_batch_counts_nowhere(shards: Any, special: SpecialIds) -> None:
    empty = held_out(shards, special, micro_batch=100, rank=1, world_size=2)[0]
    assert empty.sequences == empty.masked == empty.tokens == 0
    assert (empty.masked_labels_M == IGNORED).all()
    assert (empty.next_labels_B == IGNORED).all()
    assert empty.tokens_T[:3].tolist() == [2, 3, 3]
    assert set(empty.tensors()) == set(held_out(shards, special)[0].tensors())


def test_no_held_out_pairs_is_an_error(make_shards: Any, special: SpecialIds, tmp_path: Path) -> None:
    made = str(tmp_path), make_shards(tmp_path, train=(10,))
    with pytest.raises(InputError, match="holds no held-out pairs"):
        held_out(made, special)


@pytest.fixture
def damaged(make_shards: Any, special: SpecialIds, tmp_path: Path) -> tuple[str, Any]:
    """Held-out pairs 0 to 69 in a tar with a flipped byte, 70 to 109 in a whole one."""
    manifest = make_shards(tmp_path, train=(300,), validation=(70, 40))
    with open(tmp_path / "val-00000.tar", "r+b") as tar:
        tar.seek(3000)
        tar.write(b"damage")
    return str(tmp_path), manifest


def test_a_damaged_held_out_block_is_named(damaged: Any, special: SpecialIds) -> None:
    with pytest.raises(RunFailed, match=r"val-00000.tar at byte 0 .block 0. .* hash"):
        held_out(damaged, special)


def test_what_is_left_of_damaged_held_out_pairs_is_evaluated_as_if_it_were_alone(
    damaged: Any, special: SpecialIds, make_shards: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "whole").mkdir()
    whole = str(tmp_path / "whole"), make_shards(tmp_path / "whole", train=(300,), validation=(70, 40))
    torch.manual_seed(1)
    network = BertForPretraining(
        ModelConfig(
            vocab_size=1000, hidden_size=16, layers=1, heads=2, intermediate_size=16, max_positions=32,
            # As if trained: each sequence has losses of its own.
            initializer_range=0.5,
        )
    )  # fmt: skip
    alone = [b for b in held_out(whole, special, sequences=110, micro_batch=1) if b.samples_B[0] >= 70]
    assert len(alone) == 40
    blocks = held_out_blocks(*damaged, damage="skip")
    for _ in range(2):  # evaluations
        left = held_out(damaged, special, sequences=110, blocks=blocks)
        assert evaluate(network, left, "cpu") == pytest.approx(evaluate(network, alone, "cpu"), rel=1e-5)
    assert sum(batch.lost for batch in left) == 70
    assert capfd.readouterr().err.count("Its 70 pairs are left out") == 1


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=lambda each: each.name)
def test_where_all_held_out_pairs_are_lost_there_is_nothing_to_count(
    damaged: Any, special: SpecialIds, objective: Any
) -> None:
    (Path(damaged[0]) / "val-00001.tar").unlink()
    left = held_out(damaged, special, objective=objective, blocks=held_out_blocks(*damaged, damage="skip"))
    assert left
    assert sum(batch.masked + batch.labelled for batch in left) == 0
