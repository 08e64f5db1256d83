"""The command line: one thin command a stage.

In: arguments. Out: a stage's `run`, its result printed, an exit code: 0 done, 2 bad input, 1 failed,
128 + n stopped by signal n. What always holds: nothing heavy is imported before a command runs, so
`bertpipe --help` answers at once; a user's error is one line on standard error, without a traceback.

Example:
    bertpipe shard corpus/*.txt --vocab VOCAB -o SHARDS
"""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.ending import run_to_the_end
from pipeline.errors import BertpipeError, InputError, RunFailed
from pipeline.options import (
    CORPUS_HELP,
    corpus_options,
    given_options,
    no_track_option,
    pipeline_option,
    progress_option,
    text_options,
)
from pipeline.progress import abandon, complain


class _Group(click.Group):
    """Turns bertpipe's errors into one line and an exit code; lists commands in the road's order."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def main(self, *arguments: Any, **settings: Any) -> Any:
        """Run the command line and end the process."""
        return run_to_the_end(lambda: sys.exit(self._exit_code(*arguments, **settings)))

    def _exit_code(self, *arguments: Any, **settings: Any) -> int:
        try:
            code = super().main(*arguments, **(settings | {"standalone_mode": False}))
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.UsageError as error:
            # click would take three lines; the last one says it.
            where = error.ctx.command_path if error.ctx else "bertpipe"
            said = " ".join(error.format_message().split())
            complain(f"bertpipe: {said} ({where} --help tells more)")
            return InputError.exit_code
        except click.Abort:  # Ctrl-C while the arguments were read
            return 130
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the result has seen enough
                abandon(sys.stdout)
                return RunFailed.exit_code
            if error.errno != errno.ENOSPC:
                raise
            where = error.filename or "the disk, or where the output goes,"
            complain(f"bertpipe: {where} has no space left; free some and run the same command again")
            abandon(sys.stdout)
            return RunFailed.exit_code

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BertpipeError as error:
            if str(error):
                complain(f"bertpipe: {error}")
            context.exit(error.exit_code)
        except KeyboardInterrupt:
            complain("bertpipe: interrupted; run the same command again to continue")
            context.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="bertpipe")
# What the deepspeed launcher adds; the environment says the same.
@click.option("--local_rank", type=int, hidden=True, expose_value=False)
def main() -> None:
    """Your own text to your own BERT.

    The road: vocab → shard → inspect → pretrain → evaluate → convert. `bertpipe demo` walks it in minutes.
    """
    # OpenMP's threads spin while they wait: beside a dataloader worker on the same cores a step of `tiny` then
    # took 10 s instead of 0.5 (benchmarks/LOG.md). Read when torch loads, hence before any command imports it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command()
@corpus_options
@progress_option
@click.option("-o", "--output", help="The vocabulary folder to make.")
@click.option(
    "--extend",
    metavar="VOCAB",
    help="Fit this vocabulary to CORPUS instead: its [unusedN] slots are filled, then pieces appended up to --size "
    "(default: its own size). Its ids stay.",
)
@click.option(
    "--report",
    metavar="VOCAB",
    help="Make nothing: show how well this vocabulary covers CORPUS, by source and script.",
)
@click.option("--size", default=30522, show_default=True, help="Tokens, special ones included.")
@click.option("--cased/--uncased", default=False, show_default=True, help="Keep case and accents.")
@click.option(
    "--min-frequency",
    default=2,
    show_default=True,
    help="How often a pair must occur to be merged; with --extend also what a piece must save.",
)
@click.option(
    "--unused", default=99, show_default=True, help="[unusedN] slots; 99 gives Google's special ids."
)
@click.option("--workers", type=int, help="Processes (default: one a core); changes no byte.")
@click.option("--max-bytes", type=int, help="Train on about so many bytes of text, an even sample.")
@click.option(
    "--coverage",
    default=0.9995,
    show_default=True,
    help="Share of all characters that the alphabet covers at least; the 1,000 most frequent stay in any case.",
)
@click.option("--limit-alphabet", type=int, help="Keep the so many most frequent characters instead.")
@click.option("--json", "as_json", is_flag=True, help="With --report: for a machine.")
@pipeline_option
@click.pass_context
def vocab(
    context: click.Context,
    corpus: tuple[str, ...],
    output: str | None,
    extend: str | None,
    report: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a WordPiece vocabulary on CORPUS: vocab.txt and tokenizer.json.

    A hundredth of the documents is held out, where these are enough, and how well the vocabulary covers them is
    shown at the end.
    """
    text = text_options(context, corpus, settings)
    if report is not None:
        given = given_options(
            context,
            "report",
            "nothing is made",
            ("cased", "workers"),
            settings | {"output": output, "extend": extend},
        )
        from pipeline.corpus.vocab_report import ReportConfig
        from pipeline.corpus.vocab_report import run as run_report

        run_report(ReportConfig(vocabulary=report, json=as_json, **text, **given))
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.", context)
    if as_json:
        raise click.UsageError("--json goes with --report", context)
    from pipeline.tracking.stages import recorded_vocab

    if extend is not None:
        why = "the old vocabulary has its slots and characters, and others are added by what they save"
        given = given_options(
            context, "extend", why, ("size", "cased", "min_frequency", "max_bytes", "workers"), settings
        )
        from pipeline.corpus.extension import ExtendConfig
        from pipeline.corpus.extension import run as run_extend

        extending = ExtendConfig(vocabulary=extend, output=output, **text, **given)
        vocabulary = recorded_vocab(output, given, lambda: run_extend(extending))
    else:
        from pipeline.corpus.vocab import VocabConfig, run

        training = VocabConfig(output=output, **text, **settings)
        vocabulary = recorded_vocab(output, training.settings, lambda: run(training))
    click.echo(f"{output}: {vocabulary.size} tokens, {'cased' if vocabulary.cased else 'uncased'}")


@main.command()
@corpus_options
@progress_option
@click.option("-o", "--output", required=True, help="The shard folder to make.")
@click.option("--vocab", help="The vocabulary folder; without it one is trained into OUTPUT/vocab.")
@click.option(
    "--vocab-size", default=30522, show_default=True, help="Of the vocabulary trained without --vocab."
)
@click.option("--cased/--uncased", default=None, help="Of that vocabulary, or of a --vocab that doesn't say.")
@click.option("--language", default="en", show_default=True, help="Whose rules end a sentence (ISO 639-1).")
@click.option(
    "--words",
    is_flag=True,
    help="Note where words end in a --language written without spaces (ja, zh), for masks of whole words.",
)
@click.option(
    "--max-seq-length", default=128, show_default=True, help="Tokens of a pair, special ones included."
)
@click.option(
    "--short-seq-prob", default=0.1, show_default=True, help="Share of documents with short targets."
)
@click.option(
    "--dupe-factor",
    default=1,
    show_default=True,
    help="Sets of pairs that each document gives, cut and paired anew each time.",
)
@click.option("--shards", type=int, help="Training tars to write (default: by the corpus's size).")
@click.option("--workers", type=int, help="Processes (default: one a core); changes no byte.")
@click.option("--validation-fraction", default=0.01, show_default=True, help="Share of documents held out.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--append",
    is_flag=True,
    help="Add CORPUS to the finished shards in OUTPUT, with their vocabulary: further tars, without documents that are "
    "there.",
)
@pipeline_option
@click.pass_context
def shard(
    context: click.Context, corpus: tuple[str, ...], output: str, append: bool, **settings: Any
) -> None:
    """Turn CORPUS into sentence-pair WebDataset tars, index.arrow and manifest.json."""
    from pipeline.corpus.shard_config import ShardConfig

    text = text_options(context, corpus, settings, "language", "words")
    config = ShardConfig(output=output, **text, **settings)
    if append:
        from pipeline.corpus.appending import run
    else:
        from pipeline.corpus.sharding import run
    from pipeline.tracking.stages import recorded_shard

    recorded_shard(output, config.settings, lambda: run(config))


@main.command()
@click.argument("shards")
@click.option("--pairs", default=4, show_default=True, help="Decoded pairs to show.")
@click.option("--vocab", help="The vocabulary to decode with (default: SHARDS/vocab).")
@click.option("--verify", is_flag=True, help="Read every block; check hashes, ids, lengths and labels.")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def inspect(shards: str, pairs: int, vocab: str | None, verify: bool, as_json: bool) -> None:
    """Show what a shard folder holds."""
    from pipeline.corpus.inspection import InspectConfig, run

    run(InspectConfig(folder=shards, pairs=pairs, vocab=vocab, verify=verify, json=as_json))


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--ranks", type=int, help="Processes to start here (default: one a GPU, else 1).")
@click.option("--trust-checkpoint", is_flag=True, help="Resume from a checkpoint that another user owns.")
@click.option(
    "--allow-data-change",
    is_flag=True,
    help="Resume although shards, seed, lanes, lengths or batches are others than before; it is recorded.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Watch some of this start's steps: where their time and memory goes, into RUN/profile/.",
)
@pipeline_option
def pretrain(
    recipe: str,
    overrides: tuple[str, ...],
    ranks: int | None,
    trust_checkpoint: bool,
    allow_data_change: bool,
    profile: bool,
) -> None:
    """Train, or resume, the run that RECIPE describes; KEY=VALUE overrides by dotted key.

    Under torchrun, deepspeed or srun it joins the ranks that they started.
    """
    from pipeline.training.pretrain import run

    run(
        recipe,
        overrides,
        ranks,
        trusted=trust_checkpoint,
        may_change_data=allow_data_change,
        profiled=profile,
    )


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Again every two seconds, until the run is over.")
@click.option("--json", "as_json", is_flag=True, help="For a machine, one line.")
def status(run: Path, watch: bool, as_json: bool) -> None:
    """Show what the run in folder RUN is doing: step, rate, time left, losses, ranks.

    Works from any terminal or node that sees the folder, while others train in it.
    """
    from pipeline.status.watching import StatusConfig
    from pipeline.status.watching import run as show

    show(StatusConfig(folder=run, watch=watch, json=as_json))


@main.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@click.option("--json", "as_json", is_flag=True, help="For a machine, one line.")
def runs(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the run folders in FOLDER (default: RUNS), the latest first."""
    from pipeline.status.watching import RunsConfig, run_list

    run_list(RunsConfig(folders=folders, json=as_json))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--shards", required=True, help="The shard folder whose held-out pairs are looked at.")
@click.option("--sequences", type=int, help="How many held-out pairs (default: all).")
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
@no_track_option
def evaluate(checkpoint: Path, shards: str, sequences: int | None, as_json: bool, no_track: bool) -> None:
    """Held-out loss and accuracy of what CHECKPOINT was trained for, beside the unigram baseline."""
    from pipeline.training.evaluate import EvaluateConfig, describe, run

    asked = EvaluateConfig(checkpoint=checkpoint, shards=shards, sequences=sequences, track=not no_track)
    result = run(asked)
    click.echo(json.dumps(result, indent=1) if as_json else describe(result))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model folder to make."
)
@click.option(
    "--register",
    metavar="NAME",
    help="Put the model into the tracking server's registry, as a version of NAME.",
)
@no_track_option
def convert(checkpoint: Path, output: Path, register: str | None, no_track: bool) -> None:
    """CHECKPOINT to a Hugging Face model folder, proved by logits."""
    from pipeline.release.convert import ConvertConfig, run

    asked = ConvertConfig(checkpoint=checkpoint, output=output, register=register, track=not no_track)
    proof = run(asked)
    click.echo(
        f"{output}: {proof.parameters:,} parameters; transformers' logits differ from the engine's by at "
        f"most {proof.largest_difference:.1e}"
    )
    if proof.left_out:
        click.echo(proof.left_out)
    if proof.registered:
        click.echo(proof.registered)


@main.command()
@click.option("-o", "--output", default="demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--corpus", multiple=True, help=f"{CORPUS_HELP} Default: the English that comes with Python.")
@click.option("--steps", type=int, help="Training steps (default: about two minutes on two cores).")
def demo(output: Path, corpus: tuple[str, ...], steps: int | None) -> None:
    """The whole road on real text in minutes, with nothing but the installed package."""
    from pipeline.demo import DemoConfig, run

    run(DemoConfig(output=output, corpus=corpus, steps=steps))


@main.command()
@click.option("--recipe", help="A recipe: what it would need, and whether it fits.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gpus", help="With --recipe: GPUs to plan for instead of this machine's, e.g. 8x80GB.")
@click.option(
    "--prepare", "build", is_flag=True, help="Build DeepSpeed's ops (with --recipe: those it needs)."
)
@click.option(
    "--extensions",
    type=click.Path(path_type=Path),
    help="The folder of built ops (default: $TORCH_EXTENSIONS_DIR, else ~/.cache/bertpipe/extensions).",
)
@click.option("--json", "as_json", is_flag=True, help="For a machine.")
def doctor(as_json: bool, **settings: Any) -> None:
    """What this machine can do, and what a recipe would need; KEY=VALUE overrides the recipe.

    One line a check: ok, warning or error, what was found, the remedy. Exit code 1 where there is an error, or
    where the recipe does not fit.
    """
    from pipeline.doctor.examination import DoctorConfig, run

    run(DoctorConfig(json=as_json, **settings))


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--get", metavar="KEY", help="Print one dotted key alone; * stands for every phase.")
def recipe(recipe: str, overrides: tuple[str, ...], get: str | None) -> None:
    """Show RECIPE with every default and override spelled out."""
    import yaml

    from pipeline.configuration import values_at
    from pipeline.recipe import read_recipe

    value = read_recipe(recipe, overrides).as_dict()
    if get is None:
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    for found in values_at(value, get) if get else ():
        click.echo(found if isinstance(found, str) else json.dumps(found, default=str))


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--code", type=int, required=True, help="The exit code of `bertpipe pretrain RECIPE …`.")
@click.option(
    "--limit", type=int, default=3, show_default=True, help="Restarts in a row that may add no checkpoint."
)
@click.option("--preempted", is_flag=True, help="SLURM, not a person, has sent SIGTERM.")
@click.pass_context
def requeue(
    context: click.Context,
    recipe: str,
    overrides: tuple[str, ...],
    code: int,
    limit: int,
    preempted: bool,
) -> None:
    """Say whether a job that ended is to start again: exit code 0 for yes, 1 for no.

    The scripts in slurm/ ask it; so can those for another scheduler.
    """
    from pipeline.recipe import read_recipe
    from pipeline.training.restarts import decide

    run = read_recipe(recipe, overrides).run
    job = os.environ.get("SLURM_JOB_ID", "")
    decision = decide(Path(run), code=code, job=job, limit=limit, preempted=preempted)
    click.echo(f"{run} {decision.why}")
    context.exit(0 if decision.again else 1)


if __name__ == "__main__":
    main()
