"""`whynan data`: options, and what becomes of a result."""

import sys
from pathlib import Path
from typing import Any

import click

from whynan.cli.run import check_files
from whynan.errors import OutputError, WhynanError
from whynan.report import write_safely

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C ended, as shells count it: 128 + SIGINT."""

_FORMATS = ("auto", "coco", "voc", "yolo", "masks", "folder", "npz", "csv", "parquet", "webdataset")


class _Unreadable(click.ClickException):
    """The set cannot be looked at at all: exit status 2."""

    exit_code = 2


class _Classes(click.ParamType):  # type: ignore[type-arg]
    """A number of classes, their names with commas between, or a file with a name on each line."""

    name = "N|NAMES|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...] | int:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if value.isdigit():
            if int(value) < 1:
                self.fail(f"{value} classes: there must be at least one", param, ctx)
            return int(value)
        if Path(value).is_file():
            lines = Path(value).read_text(encoding="utf-8", errors="replace").splitlines()
            names = tuple(line.strip() for line in lines if line.strip())
        else:
            names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            self.fail(f"{value!r} names no class", param, ctx)
        return names


@click.command("data", options_metavar="[OPTIONS]")
@click.argument("path", metavar="PATH")
@click.option(
    "--format",
    "format_",
    type=click.Choice(_FORMATS),
    default="auto",
    show_default=True,
    help="What PATH holds. npz stands for .npy too.",
)
@click.option("--classes", type=_Classes(), help="Number of classes, or their names: a,b,c or a file of names.")
@click.option("--ignore-index", type=int, metavar="K", help="Mask value or label that the loss ignores.")
@click.option(
    "--train-size",
    type=click.IntRange(min=1),
    default=640,
    show_default=True,
    metavar="PX",
    help="Longest side of an image in training; boxes under a pixel then are reported.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.25,
    show_default=True,
    metavar="PX",
    help="How far a box may stand out of its image.",
)
@click.option("--annotations-only", is_flag=True, help="Do not open images.")
@click.option("--exact", is_flag=True, help="Mean and standard deviation of all pixels, not of a grid in each image.")
@click.option("--all", "is_all", is_flag=True, help="Show every finding, not the first few of each kind.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write everything as JSON; - is stdout.",
)
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with pictures and plots."
)
@click.option(
    "--fix",
    "fix_out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write repaired copies of annotation files into the folder OUT; the originals stay as they are.",
)
@click.option(
    "--engine", type=click.Choice(("local", "ray")), default="local", show_default=True, help="Where to work."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: all processors]")
@click.option("--cache/--no-cache", "is_cached", default=True, help="Remember unchanged files (the default), or not.")
def data(
    path: str,
    format_: Any,
    classes: tuple[str, ...] | int | None,
    ignore_index: int | None,
    train_size: int,
    tolerance: float,
    annotations_only: bool,
    exact: bool,
    is_all: bool,
    json_file: Path | None,
    html_file: Path | None,
    fix_out: Path | None,
    engine: Any,
    workers: int | None,
    is_cached: bool,
) -> None:
    """Check a data set before training: what in it would break a loss, where, and what the set is like.

    PATH is a folder or a file: COCO JSON, Pascal VOC, YOLO (with its data.yaml), masks, a folder for each class,
    .npy, .npz, .csv, .parquet or WebDataset shards, on this machine or anywhere that fsspec reads (s3://...).

    \b
    whynan data coco/annotations.json --html data.html
    whynan data camvid --classes 11 --ignore-index 11
    whynan data voc --fix voc-repaired

    Exit status: 0 nothing of severity error, 1 errors were found, 2 the set cannot be read at all, 130 Ctrl-C.
    """
    from whynan.data.finding import Options

    _check_outputs(json_file, html_file, fix_out, path)
    names = classes if isinstance(classes, tuple) else ()
    options = Options(
        format=format_,
        classes=len(names) if names else classes if isinstance(classes, int) else None,
        names=names,
        ignore_index=ignore_index,
        train_size=train_size,
        tolerance=tolerance,
        pixels=not annotations_only,
        exact=exact,
    )
    try:
        result = _scan(path, options, engine, workers, is_cached)
    except WhynanError as error:
        raise _Unreadable(str(error)) from error
    except KeyboardInterrupt:
        click.echo("Interrupted before the files were listed.", err=True)
        sys.exit(INTERRUPTED)
    from whynan.data.terminal import render

    is_piped = json_file is not None and str(json_file) == "-"
    # A pipe gets JSON and nothing else; people read the words beside it.
    render(result, sys.stderr if is_piped else sys.stdout, is_all)
    if is_piped:
        import json

        write_safely(json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n", sys.stdout)
    try:
        _write(result, None if is_piped else json_file, html_file, fix_out)
    except OutputError as error:
        raise _Unreadable(str(error)) from error
    sys.exit(INTERRUPTED if result.is_interrupted else 0 if result.is_clean else 1)


def _scan(path: str, options: Any, engine: Any, workers: int | None, is_cached: bool) -> Any:
    from whynan.data.finding import need

    need("numpy", "data", "whynan data")
    from whynan.data.scan import scan
    from whynan.data.terminal import Bars

    with Bars(sys.stderr) as bars:
        return scan(
            path, options, engine=engine, workers=workers, is_cached=is_cached, progress=bars, on_plan=bars.tell_plan
        )


def _write(result: Any, json_file: Path | None, html_file: Path | None, fix_out: Path | None) -> None:
    if json_file is not None:
        result.save_json(json_file)
    if html_file is not None:
        from whynan.data.page import save_page

        save_page(result, html_file)
    if fix_out is not None:
        from whynan.data.fix import repair

        click.echo("\n" + repair(result, fix_out).text())


def _check_outputs(json_file: Path | None, html_file: Path | None, fix_out: Path | None, path: str) -> None:
    """Say before the look, and not after hours of it, that something has no place to go."""
    check_files({"--json": json_file, "--html": html_file})
    if fix_out is None:
        return
    if "://" in path:
        raise click.BadParameter("works on files of this machine only", param_hint="--fix")
    if fix_out.exists() and (not fix_out.is_dir() or any(fix_out.iterdir())):
        raise click.BadParameter(f"{fix_out} is there already, and is not an empty folder", param_hint="--fix")
