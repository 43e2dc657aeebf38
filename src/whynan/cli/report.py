"""whynan report: a saved report again, without a run."""

import sys
import webbrowser
from pathlib import Path
from typing import Any

import click

from whynan.errors import OutputError, ReportError
from whynan.report.output import write_safely
from whynan.report.saved import PAGE, load, load_history, save_page
from whynan.report.terminal import render


class _BadReport(click.ClickException):
    """A report that cannot be read or written: exit status 2, as for other wrong arguments."""

    exit_code = 2


@click.command("report")
@click.argument("directory", metavar="DIR", default="whynan-out", type=click.Path(path_type=Path))
@click.option("--open", "is_opened", is_flag=True, help="Open report.html in the browser.")
@click.option(
    "--markdown", "form", flag_value="markdown", help="Print it as Markdown, for an issue, a chat or an agent."
)
@click.option("--json", "form", flag_value="json", help="Print report.json.")
@click.option("--github", "form", flag_value="github", help="Print annotations for GitHub Actions.")
@click.option("--junit", "form", flag_value="junit", help="Print it as JUnit XML.")
def report(directory: Path, is_opened: bool, form: str | None) -> None:
    """Show the report in DIR (default: whynan-out) again, and write its report.html anew.

    With --markdown, --json, --github or --junit it is printed in that form and nothing is written. A data.json
    beside the report (whynan data PATH --json DIR/data.json) becomes a part of its page.
    """
    roots = (Path(), directory.parent)
    try:
        saved = load(directory)
        if form is not None:
            _print_as(form, saved, roots)
            return
        render(saved, sys.stdout, out=directory, roots=roots, is_asked=True)
        save_page(saved, load_history(saved, directory), directory, roots)
    except (ReportError, OutputError) as error:
        raise _BadReport(str(error)) from error
    if is_opened:
        webbrowser.open((directory / PAGE).resolve().as_uri())


def _print_as(form: str, saved: dict[str, Any], roots: tuple[Path, ...]) -> None:
    from whynan.live import finish
    from whynan.report import markdown
    from whynan.report.saved import to_json_text

    text = {
        "markdown": lambda: markdown.render(saved, roots),
        "json": lambda: to_json_text(saved),
        "github": lambda: "".join(f"{line}\n" for line in finish.annotations(saved, roots)),
        "junit": lambda: finish.junit(saved, roots).decode("utf-8") + "\n",
    }[form]()
    write_safely(text, sys.stdout)
