"""The command line of a job: its own flags, those of Dataflow, and those of Beam's runners."""

import argparse
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.dataflow import checks as dataflow
from beam_jobs.dataflow import flags
from schemas.base.errors import PhraseLensError
from schemas.console.parser import Parser, parser_for
from schemas.runs import command_line

_OTHERS = "flags of Beam's runners and for Dataflow (docs/operate/dataflow.md)"


def parse(
    name: str,
    config: type,
    doc: str,
    argv: Sequence[str] | None,
    runs_networks: bool = False,
) -> tuple[Any, PipelineOptions]:
    """Parses a job's own flags, those of Dataflow and Beam's.

    Raises:
      PhraseLensError: a flag that none of them knows (Beam by itself only warns), or that
        Dataflow cannot work with.
    """
    parser = parser_for(config, name, doc)
    parser.others, parser.others_title = _beam_parser, _OTHERS
    args, rest = parser.read_known(argv)
    beam_parser = _beam_parser()
    beam_args, unknown = beam_parser.parse_known_args(rest)
    if "dataflow" not in (beam_args.runner or "").lower():
        unknown = dataflow.mistyped(rest, parser) + unknown
    parser.refuse(args, unknown, [*beam_parser._option_string_actions])
    if not any(flag.startswith("--runner") for flag in rest):
        # DirectRunner tries to download Prism first; this is the in-process one it falls back to.
        rest.append("--runner=FnApiRunner")
    parsed, pipeline_options = command_line.from_args(config, args), _Options(rest)
    _check_runner(pipeline_options)
    dataflow.prepare(pipeline_options, runs_networks)
    if flags.is_dataflow(pipeline_options) and not parsed.dry_run:
        dataflow.check_paths(parsed, pipeline_options)
    return parsed, pipeline_options


def _beam_parser() -> Parser:
    """The parser of what Beam's runners take, and of our own flags for Dataflow."""
    parser = Parser("", is_part=True)
    for options in PipelineOptions.__subclasses__():
        with_flags = getattr(options, "_add_argparse_args", None)
        if with_flags:
            with_flags(_Lenient(parser))
    return parser


def _check_runner(options: PipelineOptions) -> None:
    """Raises PhraseLensError where Beam has no runner of the name that is given."""
    name = options.view_as(StandardOptions).runner
    try:
        beam.runners.create_runner(name)
    except ValueError as error:
        raise PhraseLensError(
            f"--runner={name}", "a runner that Beam has", str(error).partition("\n")[0]
        ) from error


class _Options(PipelineOptions):
    """PipelineOptions that makes each view once.

    Beam looks at a view for every step of a graph and every type that it compares, and by itself
    parses the command line for each of them: a fifth of the time that a small job takes.
    """

    def view_as(self, cls: type) -> Any:
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own: views share the values that they show.
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


class _Lenient:
    """Adds a flag only once: several of Beam's option classes repeat one."""

    def __init__(self, parser: argparse.ArgumentParser):
        self._parser = parser

    def add_argument(self, *names: str, **options: Any) -> None:
        if not any(name in self._parser._option_string_actions for name in names):
            self._parser.add_argument(*names, **options)

    def add_mutually_exclusive_group(self, *_: Any, **__: Any) -> "_Lenient":
        return self

    add_argument_group = add_mutually_exclusive_group
