"""`whynan run` and `whynan replay`, and `whynan report`: a saved report again, without a run."""

import json
import os
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from whynan.errors import NoScriptError, OutputError, ReportError
from whynan.launch import Policy, RunOptions, execfile, host
from whynan.launch.imports import own_imports


class _ProgramCommand(click.Command):
    """A command whose own options stop at the program: what follows is the program's, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        program = _where_module_starts(args)
        if program is not None:
            args = [*args[:program], "--", *args[program:]]
        return super().parse_args(ctx, args)


_VALUED = (
    "--out", "--policy", "--budget", "--tensorboard", "--json", "--boxes", "--steps", "--wait", "--html", "--sarif",
)  # fmt: skip
"""Options of `run` and `check` that a value follows."""


def _where_module_starts(args: list[str]) -> int | None:
    """Return the index of the first argument that belongs to the module of `-m`; None where there is no `-m`."""
    i = 0
    while i < len(args) and args[i].startswith("-") and args[i] != "--":
        if args[i].startswith("-m"):
            return i + (2 if args[i] == "-m" else 1)
        i += 2 if args[i] in _VALUED else 1
    return None


@click.command(
    cls=_ProgramCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("whynan-out"),
    show_default=True,
    metavar="DIR",
    help="Where report.json and report.html are written.",
)
@click.option(
    "--policy",
    type=click.Choice(get_args(Policy)),
    default="stop",
    show_default=True,
    help="At an incident: end with status 3; or repair and go on; or change nothing.",
)
@click.option("--prove/--no-prove", default=True, help="Try the remedies on the failing step (the default).")
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds that one incident may take in all.",
)
@click.option("--rerun", is_flag=True, help="Start the script again where a step can't be replayed in place.")
@click.option("--status/--no-status", default=True, help="A status line, where standard error is a terminal (default).")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write scalars and the diagnosis for TensorBoard.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write report.json there too; - is standard output.")
@click.option(
    "--boxes",
    "boxes_of",
    multiple=True,
    metavar="MODULE",
    help="A module (dotted path or class) whose output is boxes, to be drawn as an RPN's are. May be repeated.",
)
@click.option("--capsule", is_flag=True, help="Save the failing step to DIR/capsule, for `whynan replay` elsewhere.")
@click.option("--capsule-data", is_flag=True, help="The same with the batch itself: sample data leaves this machine.")
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m MODULE` does.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def run(
    out: Path,
    policy: Policy,
    prove: bool,
    budget: float,
    rerun: bool,
    status: bool,
    tensorboard: Path | None,
    json_file: str | None,
    boxes_of: tuple[str, ...],
    capsule: bool,
    capsule_data: bool,
    module: str | None,
    program: tuple[str, ...],
) -> Callable[[], None]:
    """Run a training script unchanged and explain its first NaN or Inf.

    SCRIPT runs as `python SCRIPT ARGS` would: same arguments, output, files and exit status. Options of whynan stand
    before SCRIPT; everything after it is the script's own.

    \b
    Examples:
      whynan run train.py --lr 0.1          watch train.py; stop at the first NaN and say why
      whynan run --policy recover train.py  diagnose, skip or repair the step, go on
      whynan run --out nan/ train.py        write nan/report.json and nan/report.html
      whynan run -m project.train --epochs 3

    Weights & Biases and MLflow get the report where the script uses them; in continuous integration
    whynan-out/junit.xml is written, and GitHub Actions shows the failing line.

    Exit status: 3 where a run was stopped at an incident, else the script's own.
    """
    if module is None and not program:
        raise click.UsageError("no script given; try `whynan run train.py`, or `whynan run -m MODULE`")
    script = None if module is not None else program[0]
    options = RunOptions(
        out=out.absolute(),
        policy=policy,
        prove=prove,
        budget=budget,
        rerun=rerun,
        status=status,
        tensorboard=tensorboard.absolute() if tensorboard is not None else None,
        json_file=json_file if json_file in (None, "-") else os.path.abspath(str(json_file)),
        boxes_of=boxes_of,
        capsule=capsule or capsule_data,
        capsule_data=capsule_data,
        argv=(module, *program) if module is not None else program,
        script=script,
        module=module,
        root=Path(execfile.user_root(script)),
    )
    return lambda: launch(options)


def launch(options: RunOptions) -> None:
    if options.script is not None:
        try:
            execfile.check_script(options.script)
        except NoScriptError as missing:
            print(f"whynan: {missing}", file=sys.stderr)
            sys.exit(2)
    _check_out(options.out)
    _check_launcher(options)
    host.install()
    session = _start(options)
    execfile.before_exit(lambda: _finish(session, None))
    execfile.watch_exit()
    error: BaseException | None = None
    try:
        execfile.execute(options)
    except BaseException as raised:
        error = execfile.user_error(raised)
    execfile.end(error, _finish(session, error))


def _start(options: RunOptions) -> Any:
    # `python -m whynan` has put the working directory in front: a `random.py` there is the user's and not ours.
    path, users = sys.path[:], {os.path.realpath(options.root), os.getcwd()}
    sys.path[:] = [place for place in path if os.path.realpath(place or ".") not in users]
    try:
        from whynan import pipeline

        return pipeline.start(options)
    except Exception as error:
        host.tell("watching could not be started", error)
        return None
    finally:
        sys.path[:] = path


def _finish(session: Any, error: BaseException | None) -> int | None:
    if session is None:
        return None
    try:
        with own_imports():
            return session.finish(error)  # type: ignore[no-any-return]
    except (Exception, KeyboardInterrupt) as failure:
        host.tell("writing the report failed", failure)
        return None


_LAUNCHERS = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "torchrun",
    "accelerate.commands.launch",
    "accelerate",
)


def _check_launcher(options: RunOptions) -> None:
    """Say that a launcher's processes are not watched when it is the launcher that is run."""
    name = options.module or os.path.basename(options.script or "")
    if name in _LAUNCHERS:
        print(
            f"whynan: only the launcher is watched this way, and none of its ranks; start them as\n"
            f"whynan:   {'accelerate launch' if 'accelerate' in name else 'torchrun'} OPTIONS -m whynan run ...",
            file=sys.stderr,
        )


def _check_capsule(place: Path) -> None:
    """Raise UsageError where a folder does not hold a capsule."""
    step = place / "capsule.json"
    missing = [path.name for path in (step, place / "state.safetensors") if not path.is_file()]
    if missing:
        raise click.UsageError(
            f"{place} holds no {' and no '.join(missing)}; `whynan run --capsule train.py` writes a capsule"
        )
    try:
        json.loads(step.read_text())
    except ValueError as error:
        raise click.UsageError(f"{step} is not JSON: {error}") from None


def check_files(places: dict[str, Path | None]) -> None:
    """Raise BadParameter where the file that an option names cannot be written."""
    for option, place in places.items():
        if place is not None and not place.absolute().parent.is_dir():
            raise click.BadParameter(f"there is no folder {place.parent}", param_hint=option)
        if place is not None and place.is_dir():
            raise click.BadParameter(f"{place} is a folder", param_hint=option)


def _check_out(out: Path) -> None:
    """Say before the run, and not after hours of it, that the report has no place to go."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        print(
            f"whynan: can't write the report to {out}: {place} is not a directory that can be written to; "
            "the script runs, give another --out next time",
            file=sys.stderr,
        )


@click.command(context_settings={"allow_interspersed_args": True})
@click.argument("capsule", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--script", required=True, metavar="SCRIPT", help="The training script that the capsule came from.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("whynan-out"), show_default=True, metavar="DIR",
              help="Where report.json and report.html are written.")  # fmt: skip
@click.option("--prove/--no-prove", default=True, help="Try the remedies on the step (the default).")
@click.option("--budget", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
              help="Seconds that the explanation may take in all.")  # fmt: skip
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def replay(
    capsule: Path, script: str, out: Path, prove: bool, budget: float, args: tuple[str, ...]
) -> Callable[[], None]:
    """Run the failing step in CAPSULE again, in the script it came from.

    SCRIPT runs up to the first iteration of the loop in which the step failed; there the capsule's parameters,
    optimizer, running statistics, random states and batch take the place of its own, and the step is run and explained
    as `whynan run` would have. Where it comes out finite three times, it is reported as non-reproducible.

    \b
    Examples:
      whynan run --capsule train.py
      whynan replay whynan-out/capsule --script train.py
      whynan replay capsule --script train.py -- --data /elsewhere

    Exit status: 3 where the step was explained or did not reproduce, 2 where the capsule cannot be read.
    """
    _check_capsule(capsule)
    options = RunOptions(
        out=out.absolute(),
        prove=prove,
        budget=budget,
        argv=(script, *args),
        script=script,
        root=Path(execfile.user_root(script)),
        replay=capsule.absolute(),
    )
    return lambda: launch(options)


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
    from whynan.report.saved import PAGE, load, load_history, save_page
    from whynan.report.terminal import render

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
    from whynan.report import markdown, write_safely
    from whynan.report.saved import to_json_text

    text = {
        "markdown": lambda: markdown.render(saved, roots),
        "json": lambda: to_json_text(saved),
        "github": lambda: "".join(f"{line}\n" for line in finish.annotations(saved, roots)),
        "junit": lambda: finish.junit(saved, roots).decode("utf-8") + "\n",
    }[form]()
    write_safely(text, sys.stdout)
