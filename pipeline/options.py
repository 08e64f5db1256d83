"""Options that several commands share.

In: nothing. Out: decorators for click's commands, and what takes their values up. What always holds: nothing heavy is
imported before a command runs.

Example:
    @main.command()
    @pipeline_option
    def shard(…): …
"""

import os
from collections.abc import Callable
from typing import Any

import click

from pipeline.errors import InputError
from pipeline.progress import choose_form

CORPUS_HELP = (
    "Files, folders, globs or URIs of .txt, .jsonl or .ndjson (plain or .gz, .zst, .bz2, .xz), .parquet, and "
    "wikiextractor's files."
)

# Its ranks, and what they start, find it there, too.
_PIPELINE = "BERTPIPE_PIPELINE"


def _name_pipeline(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    if name is None:
        return
    if not name.strip():
        raise InputError("--pipeline is empty; name the pipeline, or leave the option out")
    os.environ[_PIPELINE] = name.strip()


pipeline_option = click.option(
    "--pipeline",
    metavar="NAME",
    expose_value=False,
    callback=_name_pipeline,
    help="Record this stage in MLflow as part of pipeline NAME (default: $BERTPIPE_PIPELINE).",
)

no_track_option = click.option(
    "--no-track",
    "no_track",
    is_flag=True,
    help="Don't record this in MLflow, below the run that was trained.",
)


def corpus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads a corpus."""
    for option in reversed(
        (
            click.argument("corpus", nargs=-1, metavar="[CORPUS]..."),
            click.option(
                "--sources",
                "sources_file",
                metavar="YAML",
                help="Instead of CORPUS: a file of sources, each with a name, corpus, weight and options of its own; "
                "the command line's are the defaults.",
            ),
            click.option(
                "--sentences",
                type=click.Choice(["paragraphs", "lines"]),
                default="paragraphs",
                show_default=True,
                help="What a line of text holds: a paragraph to be segmented, or one sentence.",
            ),
            click.option(
                "--format",
                type=click.Choice(["auto", "text", "jsonl", "parquet", "wikiextractor"]),
                default="auto",
                show_default=True,
                help="What all files are; auto: each what its name says, or its beginning where it has no suffix.",
            ),
            click.option(
                "--text-key",
                "--text-column",
                "text_key",
                metavar="KEY",
                help="The JSON key or Parquet column of the text (or list of sentences); dots lead into objects. "
                "Default: text, or else sentences.",
            ),
            click.option(
                "--invalid-utf8",
                type=click.Choice(["error", "replace", "skip"]),
                default="error",
                show_default=True,
                help="A document that is no UTF-8: refuse the corpus, put U+FFFD, or leave the document out.",
            ),
            click.option(
                "--filter",
                "filters",
                multiple=True,
                metavar="NAME[=VALUE]",
                help="Leave documents out that are shorter than length=N characters, have under letters=SHARE letters, "
                "or over repeated-lines=SHARE lines or repeated-text=SHARE characters in lines that repeat an earlier "
                "one; take urls or markup out of the text. May be given several times.",
            ),
            click.option(
                "--redact",
                "redactions",
                multiple=True,
                metavar="NAME[=REGEX]",
                help="Put [NAME] for each email, phone or id-number, or for what a regular expression of your own "
                "matches (Python's). May be given several times.",
            ),
        )
    ):
        command = option(command)
    return command


progress_option = click.option(
    "--progress",
    type=click.Choice(["auto", "quiet", "json"]),
    default="auto",
    show_default=True,
    callback=lambda context, parameter, form: choose_form(form),
    expose_value=False,
    help="What is told on standard error: a bar or plain lines, errors alone, or a JSON object a line.",
)


def text_options(
    context: click.Context, corpus: tuple[str, ...], settings: dict[str, Any], *more: str
) -> dict[str, Any]:
    """Which text, and how it is read: `corpus_options` taken out of a command's `settings`, for its configuration.

    more: options of the command's own that a source may have, too
    """
    from pipeline.corpus.filters import FilterOptions
    from pipeline.corpus.readers import ReadOptions

    path, filters, redactions = (settings.pop(name) for name in ("sources_file", "filters", "redactions"))
    read = {name: settings.pop(name) for name in ("sentences", "format", "text_key", "invalid_utf8")}
    own = {name: settings.pop(name) for name in more}
    if path is None:
        if not corpus:
            raise click.UsageError("Missing argument 'CORPUS...', or a file of them: --sources", context)
        options = ReadOptions(filters=FilterOptions(filters=filters, redactions=redactions), **read)
        return {"corpus": corpus, "read": options, **own}
    if corpus:
        raise click.UsageError(
            f"CORPUS ({' '.join(corpus)}) does not go with --sources: put all of the corpus into {path}",
            context,
        )
    from pipeline.corpus.sources_file import read_sources

    return {"sources": read_sources(path, {**read, **own, "filter": filters, "redact": redactions})}


def given_options(
    context: click.Context, option: str, why: str, allowed: tuple[str, ...], settings: dict[str, Any]
) -> dict[str, Any]:
    """Those of `settings` that the command line gives; refuses what doesn't go with `option`, and says `why`."""
    default = click.core.ParameterSource.DEFAULT
    given = {name: settings[name] for name in settings if context.get_parameter_source(name) is not default}
    for name in given:
        if name not in allowed:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --{option}: {why}", context)
    return given
