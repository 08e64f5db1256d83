"""Options that several commands share.

In: nothing. Out: decorators for click's commands. What always holds: nothing heavy is imported.

Example:
    @main.command()
    @pipeline_option
    def shard(…): …
"""

import os

import click

from pipeline.errors import InputError

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
