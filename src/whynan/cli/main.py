"""The `whynan` command. A subcommand's module is imported only when it is named."""

import importlib
import sys
from typing import Any

import click

from whynan import __version__
from whynan.errors import UsageError

_COMMANDS = {
    "run": ("whynan.cli.run:run", "Run a training script unchanged and explain its first NaN or Inf."),
    "check": ("whynan.cli.check:check", "Ask a script where it could go NaN, before it does."),
    "data": ("whynan.cli.data:data", "Check a data set before training: what in it would break a loss."),
    "replay": ("whynan.cli.run:replay", "Run the failing step of a capsule again, elsewhere."),
    "report": ("whynan.cli.run:report", "Show a saved report again."),
    "explain": ("whynan.cli.explain:explain", "Causes of NaN and what helps against them."),
    "mcp": ("whynan.cli.main:mcp", "Serve run, data, report and explain to an editor or a coding agent."),
    "demo": ("whynan.cli.demo:demo", "A training run that really fails, diagnosed."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="whynan")
def cli() -> None:
    """Why did my loss become NaN?

    \b
    whynan run train.py     runs your script unchanged and, when the loss goes NaN, names the
                            operation, the line, the sample and the cause
    whynan check train.py   says where it could go NaN, before it does
    whynan data PATH        says what in a data set would break a loss
    whynan explain          lists the causes it knows
    whynan demo             shows it on a training run that fails
    """


def main() -> Any:
    """Run the command line. The user's program runs outside of click, which would answer its exceptions."""
    result = _parse()
    return result() if callable(result) else result


def _parse() -> Any:
    try:
        return cli.main(prog_name="whynan", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        print("Aborted!", file=sys.stderr)
        sys.exit(1)


@click.command("mcp")
def mcp() -> None:
    """Serve run, data, report and explain to an editor or a coding agent (Model Context Protocol, standard streams).

    \b
    In the client's configuration:
      {"mcpServers": {"whynan": {"command": "whynan", "args": ["mcp"]}}}

    The tool `run` starts the script that it is given, and writes the report's folder; everything else only reads.
    """
    from whynan.mcp_server import make_server

    try:
        server = make_server()
    except UsageError as error:
        raise click.ClickException(str(error)) from error
    server.run(transport="stdio")
