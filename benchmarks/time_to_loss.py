"""How long it takes to learn: bertpipe's recipes beside the Trainer of `transformers`, to the same held-out loss.

In: a shard folder, a recipe that follows the paper, a budget recipe, seeds. Out: for each side and seed the seconds
from the process's start until the held-out MLM loss lies `--below` nats under what a unigram model reaches, and ratios.
What always holds: one side computes at a time, in a process of its own, with all the machine's cores; the Trainer has
the paper recipe's network, initial weights, pairs, masks, batches, rates and optimizer; all sides are evaluated on the
same held-out pairs with the same masks, and that time counts; bertpipe's loader hands the Trainer its padded batches,
in less than a thousandth of the time.

The Trainer runs as its users run it, one process with a thread a core; so does the paper recipe. The budget recipe is
run with a rank a core.

    $ python benchmarks/time_to_loss.py --shards SHARDS/128 --seeds 1 2
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Threads that spin while they wait would slow others down. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.loader import TrainLoader
from pipeline.batches.microbatch import MicroBatch
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import read_manifest
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.processes import available_cores
from pipeline.recipe import Recipe, read_recipe
from pipeline.training.evaluate import LabelCounts, unigram_loss
from pipeline.training.metrics import read_metrics
from pipeline.training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("paper", "budget", "transformers")
# Seconds between two looks at a run.
_LOOK = 0.2


def recipe_of(side: str, options: argparse.Namespace, seed: int, run: str) -> tuple[str, list[str]]:
    """The side's recipe file, and what is set otherwise."""
    path, chosen = (options.budget, []) if side == "budget" else (options.paper, options.set)
    phases = len(read_recipe(path).phases)
    shards = [f"phases.{index}.shards={options.shards}" for index in range(phases)]
    fixed = [f"run={run}", f"seed={seed}", "tracking.experiment=null", "checkpoint.every=1000000"]
    evaluated = [f"evaluate.every={options.every}", f"evaluate.sequences={options.sequences}"]
    # The same masks for all, whatever the rate that one is trained with.
    evaluated += [f"evaluate.masking_rate={read_recipe(options.paper).masking.last_rate}"]
    return path, [*fixed, *evaluated, *shards, *chosen]


def held_out(recipe: Recipe, shards: str, sequences: int) -> Iterator[MicroBatch]:
    """The pairs that every side is evaluated on."""
    manifest = read_manifest(shards)
    return held_out_micro_batches(
        shards,
        manifest,
        sequences=min(sequences, manifest.pairs("validation")),
        micro_batch=32,
        masking=recipe.held_out_masking,
        special=SpecialIds.of(load_vocabulary(f"{shards}/vocab")),
        seed=recipe.seed,
    )


def goal_of(options: argparse.Namespace, seed: int) -> float:
    """The loss to reach, in nats: of the paper recipe's held-out masks."""
    path, overrides = recipe_of("paper", options, seed, "RUN")
    recipe, manifest = read_recipe(path, overrides), read_manifest(options.shards)
    counts = LabelCounts(manifest.vocabulary["size"])
    for _ in counts.of(held_out(recipe, options.shards, options.sequences)):
        pass
    return unigram_loss(options.shards, manifest, counts.labels) - options.below


def time_bertpipe(
    side: str, options: argparse.Namespace, seed: int, goal: float, run: Path
) -> dict[str, Any]:
    """Pretrain until the goal is reached; what it took."""
    path, overrides = recipe_of(side, options, seed, str(run))
    command = [sys.executable, "-m", "pipeline.cli", "pretrain", path, *overrides]
    command += ["--ranks", str(options.budget_ranks if side == "budget" else 1)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.time()
    with (run.parent / f"{run.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while True:
                ended = process.poll() is not None
                for line in read_metrics(run) if run.exists() else []:
                    if (loss := line.get("held_out_mlm_loss", goal + 1)) <= goal:
                        return {"seconds": time.time() - started, "step": line["step"], "loss": loss}
                if ended:
                    raise SystemExit(f"{side}, seed {seed}: ended above {goal:.3f}: see {log.name}")
                time.sleep(_LOOK)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def train_with_transformers(options: argparse.Namespace, seed: int, goal: float) -> None:
    """The other side's process; prints what it took as JSON."""
    started = time.time()
    import torch
    import transformers
    from parts.hugging_face import padded
    from torch.utils.data import IterableDataset
    from transformers import BertConfig, BertForPreTraining, Trainer, TrainerCallback, TrainingArguments

    from model.bert import BertForPretraining
    from model.hf_names import hf_config, to_hf
    from pipeline.training.optimizer import make_optimizer
    from pipeline.training.start import seed_weights

    torch.set_num_threads(available_cores())
    transformers.utils.logging.set_verbosity_error()
    path, overrides = recipe_of("transformers", options, seed, "RUN")
    recipe = read_recipe(path, overrides)
    (phase,) = recipe.phases
    vocabulary = load_vocabulary(f"{options.shards}/vocab")
    seed_weights(seed)
    ours = BertForPretraining(recipe.model_config(vocabulary.size))
    network = BertForPreTraining(BertConfig(**hf_config(ours.config)))
    network.load_state_dict(to_hf(ours.state_dict(), ours.config))
    accumulation = phase.global_batch // phase.micro_batch

    class Batches(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            loader = TrainLoader(
                sources=[Source(folder=options.shards, manifest=read_manifest(options.shards))],
                seed=seed,
                phase=0,
                lanes=recipe.resolved_lanes,
                global_batch=phase.global_batch,
                micro_batch=phase.micro_batch,
                sequence_length=phase.sequence_length,
                masking=recipe.masking,
                special=SpecialIds.of(vocabulary),
            )
            with loader:
                for step in loader:
                    yield from map(padded, step.micro_batches)

    grids = [(padded(one), one.masked) for one in held_out(recipe, options.shards, options.sequences)]

    class Goal(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % options.every:
                return
            network.eval()
            nats = masked = 0.0
            with torch.no_grad():
                for grid, count in grids:
                    logits = network(
                        **{k: grid[k] for k in ("input_ids", "token_type_ids", "attention_mask")}
                    )
                    nats += float(
                        torch.nn.functional.cross_entropy(
                            logits.prediction_logits.flatten(0, 1), grid["labels"].flatten(), reduction="sum"
                        )
                    )
                    masked += count
            network.train()
            loss, seconds = nats / masked, time.time() - started
            print(f"step {state.global_step}: {loss:.4f} after {seconds:.0f} s", file=sys.stderr, flush=True)
            if loss <= goal:
                found = {"seconds": seconds, "step": state.global_step, "loss": loss}
                print(json.dumps(found), flush=True)
                control.should_training_stop = True

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=phase.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=recipe.gradient_clipping,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        seed=seed,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    optimizer = make_optimizer(phase.optimizer, network, recipe)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(phase, min(step, phase.steps - 1))
    )
    trainer = Trainer(
        model=network,
        args=arguments,
        train_dataset=Batches(),
        data_collator=lambda examples: examples[0],
        optimizers=(optimizer, schedule),
        callbacks=[Goal()],
    )
    # Else it takes the model to have divided by the number of micro-batches, and sums their gradients.
    trainer.loss_is_scaled_for_ga = False
    trainer.train()


def time_transformers(options: argparse.Namespace, seed: int, goal: float, log: Path) -> dict[str, Any]:
    """The Trainer, until the goal is reached; what it took."""
    command = [sys.executable, __file__, *sys.argv[1:], "--inside", str(seed), str(goal)]
    with log.open("w") as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    # The Trainer has something to say, too.
    found = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    if done.returncode or not found:
        raise SystemExit(f"transformers, seed {seed}: ended above {goal:.3f}: see {log}")
    result: dict[str, Any] = json.loads(found[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="seconds to a held-out loss, beside transformers' Trainer")
    parser.add_argument("--shards", required=True, help="a folder that `bertpipe shard` wrote")
    parser.add_argument("--paper", default=str(ROOT / "recipes" / "mini.yaml"), help="the paper's recipe")
    parser.add_argument("--budget", default=str(ROOT / "recipes" / "mini_budget.yaml"), help="the other")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--below", type=float, default=0.5, help="nats under the unigram model's loss")
    parser.add_argument("--every", type=int, default=25, help="steps between two evaluations")
    parser.add_argument("--sequences", type=int, default=512, help="held-out pairs")
    parser.add_argument("--set", nargs="*", default=[], help="key=value of the paper's recipe, on both sides")
    parser.add_argument(
        "--budget-ranks", type=int, default=available_cores(), help="ranks of the budget recipe's run"
    )
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        train_with_transformers(options, int(options.inside[0]), float(options.inside[1]))
        return
    work = Path(tempfile.mkdtemp(prefix="time-to-loss-"))
    taken: dict[str, list[float]] = {side: [] for side in options.sides}
    for seed in options.seeds:
        goal = goal_of(options, seed)
        print(
            f"seed {seed}: held-out MLM loss of {goal:.4f} ({options.below} under the unigram model's)",
            flush=True,
        )
        for side in options.sides:
            if side == "transformers":
                found = time_transformers(options, seed, goal, work / f"{side}-{seed}.log")
            else:
                found = time_bertpipe(side, options, seed, goal, work / f"{side}-{seed}")
            taken[side].append(found["seconds"])
            print(
                f"{side:>12}: {found['seconds']:8.1f} s, step {found['step']}, loss {found['loss']:.4f}",
                flush=True,
            )
    if "transformers" in taken:
        for side in options.sides[:]:
            if side != "transformers":
                ratios = [slow / fast for slow, fast in zip(taken["transformers"], taken[side], strict=True)]
                print(
                    f"{side:>12}: {statistics.mean(ratios):.2f} times sooner than the Trainer "
                    f"[{min(ratios):.2f} to {max(ratios):.2f}]"
                )


if __name__ == "__main__":
    main()
