"""The authority: `transformers`' BertForPreTraining with the same weights, on the same pairs, padded."""

import pytest
import torch

from model.hf_names import hf_config, tied_names, to_hf
from workshop.padding import padded

transformers = pytest.importorskip("transformers")

MIXED, EQUAL = (5, 17, 9, 23, 1, 12), (16, 16, 16, 16)


@pytest.mark.parametrize("lengths", [MIXED, EQUAL], ids=["mixed", "equal"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_logits_losses_and_every_gradient_equal_those_of_transformers(
    make_model, lay_end_to_end, encoder_inputs, gradients, lengths, activation, dtype
):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    ours = make_model(activation=activation).to(dtype)
    twin_config = transformers.BertConfig(**hf_config(ours.config))
    theirs = transformers.BertForPreTraining(twin_config).to(dtype).eval()
    theirs.load_state_dict(to_hf(ours.state_dict(), ours.config))
    batch = lay_end_to_end(lengths, tail=7, masked_pads=3)
    grid = padded(batch)
    counted = batch["masked_labels_M"] != -100
    masked, pairs = int(counted.sum()), len(lengths)

    expected = theirs(**grid)
    # Slot by slot, transformers' masked positions come in the same order as ours.
    expected_mlm = expected.prediction_logits[grid["labels"] != -100]
    expected_nsp = expected.seq_relationship_logits
    hidden, pooled = ours.encode(**encoder_inputs(batch))
    close = {"rtol": 0, "atol": tolerance * float(expected_mlm.abs().max())}
    found_mlm = ours.mlm_logits(hidden, batch["masked_positions_M"])[counted]
    torch.testing.assert_close(found_mlm, expected_mlm, **close)
    torch.testing.assert_close(ours.nsp_logits(pooled), expected_nsp, **close)

    mlm_loss = torch.nn.functional.cross_entropy(expected_mlm, batch["masked_labels_M"][counted])
    nsp_loss = torch.nn.functional.cross_entropy(expected_nsp, batch["next_labels_B"])
    sums = ours(**batch)
    torch.testing.assert_close(sums.mlm_sum / masked, mlm_loss, rtol=tolerance, atol=0)
    torch.testing.assert_close(sums.nsp_sum / pairs, nsp_loss, rtol=tolerance, atol=0)
    assert sums.mlm_correct == (expected_mlm.argmax(-1) == batch["masked_labels_M"][counted]).sum()
    assert sums.nsp_correct == (expected_nsp.argmax(-1) == batch["next_labels_B"]).sum()

    # The loss that transformers itself reports, labels in the grid and all.
    reported = theirs(**grid, next_sentence_label=batch["next_labels_B"]).loss
    loss = sums.mlm_sum / masked + sums.nsp_sum / pairs
    torch.testing.assert_close(loss, reported, rtol=tolerance, atol=0)
    found = to_hf(gradients(ours, loss), ours.config)
    wanted = gradients(theirs, reported)
    assert set(found) - set(tied_names()) == set(wanted)
    for name, gradient in wanted.items():
        # A key's bias shifts all scores of a query alike, so its true gradient is 0 and what is found is
        # rounding: measured on the scale of the query's.
        scale = wanted[name.replace("self.key.bias", "self.query.bias")].abs().max()
        error = (found[name] - gradient).abs().max() / scale
        assert error <= tolerance, f"{name}: relative error {error:.1e}"
