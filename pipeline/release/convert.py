"""`bertpipe convert`: a checkpoint to a folder that Hugging Face loads, proved by logits.

In: a checkpoint of any ZeRO stage. Out: `config.json, model.safetensors, vocab.txt, tokenizer.json,
tokenizer_config.json, special_tokens_map.json, README.md`. What always holds: the folder appears whole or not
at all, and only after `transformers` has loaded it and given the trained engine's logits (law 9), tied
decoder and the pairs' head included. The objective and the network decide which of transformers' classes that is
(`model.hf_families`); a network that none computes is refused before any work, and a pairs' head that its class has no
room for stays behind, which is said.

Example:
    bertpipe convert RUNS/mini/checkpoints/latest -o MODELS/mini
"""

import dataclasses
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.config import ModelConfig
from model.counts import parameter_count
from model.hf_families import family_of, held, why_none
from model.hf_names import architecture, hf_config, tied_names, to_hf
from pipeline import storage
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary, save_vocabulary
from pipeline.errors import InputError, RunFailed
from pipeline.release.card import model_card
from pipeline.release.registry import check_model_name, check_registry, conversion_record, register
from pipeline.tracking.stages import record_below
from pipeline.training.checkpoints import (
    INFO,
    TOLERANCE,
    VOCABULARY,
    CheckpointInfo,
    largest_difference,
    load_network,
    pinned,
    read_checkpoint,
    read_probe,
    run_of,
)
from pipeline.training.probe import probe_input

if TYPE_CHECKING:
    import torch

    from model.bert import BertForPretraining


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What `bertpipe convert` is asked.

    track: whether it is recorded below the pipeline that the checkpoint's run belongs to
    register: the name under which the model is put into the tracking server's registry; None: it isn't
    """

    checkpoint: Path
    output: Path
    track: bool = True
    register: str | None = None

    def __post_init__(self) -> None:
        if self.register is not None:
            check_model_name(self.register, track=self.track)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was seen before the folder was kept.

    largest_difference: between the engine's logits and those of the folder loaded by transformers
    left_out: what of the network the folder has no room for, as a person reads it; empty where it holds all
    registered: what became of it in the registry, as a person reads it; empty where that was not asked for
    """

    parameters: int
    largest_difference: float
    left_out: str = ""
    registered: str = ""


def run(config: ConvertConfig) -> Proof:
    """Convert a checkpoint; see the module's promises.

    Raises InputError where the output is taken, the checkpoint is none or no class of transformers computes its
    network, RunFailed where the proof fails.
    """
    started = time.time()
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise InputError(f"{config.output} exists and is not empty; name a new folder")
    if storage.is_uri(str(config.output)) or ":/" in str(config.output):
        raise InputError(f"{config.output} is a URI; convert to a local folder and copy it there")
    checkpoint = pinned(config.checkpoint)
    info = read_checkpoint(checkpoint)
    if why := why_none(ModelConfig(**info.model)):
        raise InputError(f"{checkpoint} can't be converted: {why}; docs/architecture.md lists what can")
    run = run_of(checkpoint)
    if config.register is not None:
        # Before the work: without a run on record there is nothing to register below.
        check_registry(run, info.recipe["tracking"], checkpoint)
    network = load_network(checkpoint, info)
    vocabulary = load_vocabulary(str(checkpoint / VOCABULARY))
    if vocabulary.hash != info.vocabulary["hash"]:
        raise RunFailed(
            f"{checkpoint / VOCABULARY} has hash {vocabulary.hash}, the checkpoint was trained with "
            f"{info.vocabulary['hash']}; put that vocabulary back"
        )
    output = config.output.absolute()
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    identity = storage.hash_file(str(checkpoint / INFO))
    storage.make_folder(str(temporary))
    try:
        _write_model(temporary, network, info, vocabulary, identity)
        difference = prove(temporary, held(network.config), read_probe(checkpoint))
        storage.write_text(str(temporary / "README.md"), model_card(info, identity, difference))
        if config.output.exists():
            config.output.rmdir()
        os.rename(temporary, config.output)
    except OSError as error:
        raise RunFailed(f"cannot write {config.output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    proof = Proof(
        parameters=parameter_count(held(network.config)),
        largest_difference=difference,
        left_out=left_out(network.config),
    )
    if not config.track:
        return proof
    record = conversion_record(output, info, identity, proof.parameters, difference)
    if config.register is None:
        record_below(run, info.recipe["tracking"], record, started=started)
        return proof
    said = register(config.register, output, run, info, record, started=started)
    return dataclasses.replace(proof, registered=said)


def left_out(config: ModelConfig) -> str:
    """What of a network its class of transformers has no room for, as a person reads it; empty where it holds all."""
    if held(config) == config:
        return ""
    return f"{architecture(config)} has no pooler and no pairs' head: the checkpoint's stay behind"


def _tensor_bytes(tensors: "dict[str, torch.Tensor]", metadata: dict[str, str]) -> bytes:
    """A safetensors file's content (the library's own writer has an error type of its own for a full disk)."""
    from safetensors.torch import save

    return save(tensors, metadata)


def _write_model(
    folder: Path, network: "BertForPretraining", info: CheckpointInfo, vocabulary: Vocabulary, identity: str
) -> None:
    state = to_hf(network.state_dict(), network.config, pad_token_id=vocabulary.pad_id)
    # Tied tensors are one tensor: stored once, tied again by transformers.
    stored = {name: tensor.contiguous() for name, tensor in state.items() if name not in tied_names()}
    lineage = {"format": "pt", "bertpipe.checkpoint": identity, "bertpipe.step": str(info.step)}
    storage.write_bytes(str(folder / "model.safetensors"), _tensor_bytes(stored, lineage))
    configuration = hf_config(network.config, pad_token_id=vocabulary.pad_id)
    storage.write_json(str(folder / "config.json"), configuration | {"dtype": "float32"})
    save_vocabulary(vocabulary, str(folder))
    specials = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    storage.write_json(str(folder / "special_tokens_map.json"), specials)
    storage.write_json(
        str(folder / "tokenizer_config.json"),
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": not vocabulary.cased,
            "model_max_length": network.config.max_positions,
            **specials,
        },
    )


def prove(folder: Path, config: ModelConfig, engine_answers: "dict[str, torch.Tensor]") -> float:
    """The largest difference between the engine's logits and those of `folder` loaded by transformers.

    config: of what the folder holds, which may be less than the engine's network
    Raises RunFailed where it is above 1e-4, or where transformers misses or doesn't know a weight.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    theirs, loading = getattr(transformers, architecture(config)).from_pretrained(
        folder, output_loading_info=True, local_files_only=True, attn_implementation="eager"
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            raise RunFailed(
                f"transformers reports {kind} {sorted(map(str, loading[kind]))}; nothing was kept"
            )
    answers = _transformers_logits(theirs.eval(), config)
    difference = largest_difference(answers, {name: engine_answers[name] for name in answers})
    if difference > TOLERANCE:
        raise RunFailed(
            f"transformers' logits differ from the engine's by {difference:.1e}, more than {TOLERANCE:.0e}; "
            "nothing was kept"
        )
    return difference


def _transformers_logits(theirs: Any, config: ModelConfig) -> "dict[str, torch.Tensor]":
    """The probe's answers by transformers, on its own padded form of the same sequences."""
    import torch

    given = probe_input(config)
    starts = given["sequence_starts_B1"]
    lengths = np.diff(starts)
    shape = (len(lengths), int(lengths.max()))
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    padded = {}
    for ours, name in (("tokens_T", "input_ids"), ("segments_T", "token_type_ids")):
        padded[name] = torch.zeros(shape, dtype=torch.long)
        padded[name][sequence, given["positions_T"]] = torch.from_numpy(given[ours])
    padded["attention_mask"] = torch.zeros(shape, dtype=torch.long)
    padded["attention_mask"][sequence, given["positions_T"]] = 1
    pad_id = theirs.config.pad_token_id
    if family_of(config).padding_positions and (given["tokens_T"] == pad_id).any():
        # It counts a sequence's tokens but for [PAD], which never stands in one, but may in a probe.
        padded["position_ids"] = torch.arange(shape[1]).expand(shape) + pad_id + 1
    with torch.no_grad():
        answer = theirs(**padded)
    probed = given["probed_P"]
    logits_BSV = answer.prediction_logits if config.pair_head else answer.logits
    answers = {"mlm_PV": logits_BSV[sequence[probed], given["positions_T"][probed]]}
    return answers | ({"nsp_B2": answer.seq_relationship_logits} if config.pair_head else {})
