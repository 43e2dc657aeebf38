"""whynan explain: the catalogue of causes and remedies, as an overview or one page at a time."""

import io
import sys
from collections.abc import Iterator
from itertools import groupby

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from whynan.adapters import CAPABILITIES, FRAMEWORKS, SUPPORTED, in_words
from whynan.diagnosis import catalogue
from whynan.diagnosis.catalogue import Cause, Remedy

WIDTH = 100
CAPABILITIES_WIDTH = 140
INDENT = 4


class _UnknownSlug(click.ClickException):
    """A slug that names nothing: exit status 2, as for other wrong arguments."""

    exit_code = 2


@click.command("explain")
@click.option("--capabilities", is_flag=True, help="Show what is offered for each framework.")
@click.argument("slug", required=False)
def explain(slug: str | None, capabilities: bool) -> None:
    """Explain the cause or remedy SLUG: what it is, how it looks, bad and good code. Without SLUG, list all."""
    if capabilities:
        _show(_capabilities(), CAPABILITIES_WIDTH)
        return
    try:
        entry = None if slug is None else catalogue.look_up(slug)
    except catalogue.UnknownSlugError as error:
        raise _UnknownSlug(str(error)) from error
    _show(_overview() if entry is None else _page(entry))


def _show(page: RenderableType, width: int = WIDTH) -> None:
    """Print with colours to a terminal; a pipe or a file gets the same words in plain text."""
    if sys.stdout.isatty():
        console = Console(file=sys.stdout, highlight=False)
        console.width = min(console.width, width)
        console.print(page)
        return
    plain = io.StringIO()
    Console(file=plain, width=width, force_terminal=False, color_system=None, highlight=False).print(page)
    click.echo("\n".join(line.rstrip() for line in plain.getvalue().splitlines()))


def _overview() -> RenderableType:
    parts: list[RenderableType] = []
    for group, causes in groupby(catalogue.all_causes(), key=lambda cause: cause.group):
        parts += [_heading(f"causes: {group}"), _list((cause.slug, cause.title) for cause in causes)]
    parts += [_heading("remedies"), _list((remedy.slug, remedy.title) for remedy in catalogue.all_remedies())]
    parts.append(Text("\nwhynan explain SLUG shows one of them with code."))
    return Group(*parts)


def _capabilities() -> RenderableType:
    table = Table(show_lines=False, box=None, padding=(0, 1))
    table.add_column("", min_width=30, max_width=40)
    for name in FRAMEWORKS:
        table.add_column(name, max_width=13)
    for row in CAPABILITIES:
        table.add_row(row.title, *(in_words(row.offers[name]) for name in FRAMEWORKS))
    watched = ", ".join(f"{name} {first} to before {end}" for name, (first, end) in SUPPORTED.items())
    return Group(table, Text(f"\nkeras: with the TensorFlow or JAX backend; on PyTorch as torch. Versions: {watched}."))


def _page(entry: Cause | Remedy) -> RenderableType:
    page = catalogue.page_of(entry)
    kind = f"cause, {entry.group}" if isinstance(entry, Cause) else "remedy"
    parts: list[RenderableType] = [
        Text.assemble((entry.slug, "bold"), f"  {entry.title}  ", (f"({kind})", "dim")),
        _text(page.text),
    ]
    if "Symptoms" in page.sections:
        parts += [_heading("how it looks"), _text(page.sections["Symptoms"])]
    for name, title in (("Given", "given"), ("Bad", "bad"), ("Good", "good"), ("Code", "code")):
        if name in page.sections:
            parts += [_heading(title), _code(page.sections[name])]
    if isinstance(entry, Cause):
        parts += [_heading("what helps, best first"), _list(_remedies(entry))]
    else:
        helped = ((cause.slug, cause.title) for cause in catalogue.causes_helped_by(entry.slug))
        parts += [_heading("helps against"), _list(helped)]
    return Group(*parts)


def _remedies(cause: Cause) -> Iterator[tuple[str, str]]:
    for slug in cause.remedies:
        remedy = catalogue.remedy(slug)
        yield slug, remedy.title if remedy else ""


def _heading(title: str) -> RenderableType:
    return Text(f"\n{title}", style="bold cyan")


def _text(text: str) -> RenderableType:
    """Return prose, wrapped anew: its line breaks are those of a docstring."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    return Padding(Text("\n\n".join(paragraphs)), (0, 0, 0, 2))


def _code(code: str) -> RenderableType:
    return Padding(Syntax(code, "python", background_color="default", word_wrap=True), (0, 0, 0, INDENT))


def _list(rows: Iterator[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=29)
    table.add_column()
    for slug, title in rows:
        table.add_row(Text(f"  {slug}", style="green"), Text(title))
    return table
