"""whynan report: a saved report again, without a run."""

import sys
import webbrowser
from pathlib import Path

import click

from whynan.errors import OutputError, ReportError
from whynan.report.read import load, load_history
from whynan.report.save import PAGE, save_page
from whynan.report.terminal import render


class _BadReport(click.ClickException):
    """A report that cannot be read or written: exit status 2, as for other wrong arguments."""

    exit_code = 2


@click.command("report")
@click.argument("directory", metavar="DIR", default="whynan-out", type=click.Path(path_type=Path))
@click.option("--open", "is_opened", is_flag=True, help="Open report.html in the browser.")
def report(directory: Path, is_opened: bool) -> None:
    """Show the report in DIR (default: whynan-out) again, and write its report.html anew."""
    roots = (Path(), directory.parent)
    try:
        saved = load(directory)
        render(saved, sys.stdout, out=directory, roots=roots, is_asked=True)
        save_page(saved, load_history(saved, directory), directory, roots)
    except (ReportError, OutputError) as error:
        raise _BadReport(str(error)) from error
    if is_opened:
        webbrowser.open((directory / PAGE).resolve().as_uri())
