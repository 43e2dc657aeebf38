"""`whynan check`: options, and nothing of the work."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from whynan.cli.run import _ProgramCommand, check_files
from whynan.errors import NoScriptError, WitnessError
from whynan.launch import RunOptions, execfile, host

CLEAN, FOUND, NOTHING = 0, 1, 2
INTERRUPTED = 130


@click.command(cls=_ProgramCommand, context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]")
@click.option(
    "--steps", type=click.IntRange(min=2), default=3, show_default=True, metavar="N", help="Iterations to run."
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds for all searches for witnesses; 0 for none.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds that the script may take to its last step.",
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write what was found as JSON."
)
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page.")
@click.option(
    "--sarif",
    "sarif_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write SARIF 2.1.0, for code scanning.",
)
@click.option(
    "--save",
    "save_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the witnesses, one folder each.",
)
@click.option(
    "--replay",
    "replayed",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Run SCRIPT's step on a saved witness, instead of a check.",
)
@click.option(
    "--github/--no-github", default=None, help="Print GitHub annotations.  [default: where GITHUB_ACTIONS is set]"
)
@click.option("--quiet", is_flag=True, help="Swallow what the script prints.")
@click.option("-m", "module", metavar="MODULE", help="Check a module, as `python -m MODULE` would run it.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="SCRIPT [ARGS]...")
def check(
    steps: int,
    budget: float,
    wait: float,
    json_file: Path | None,
    html_file: Path | None,
    sarif_file: Path | None,
    save_folder: Path | None,
    replayed: Path | None,
    github: bool | None,
    quiet: bool,
    module: str | None,
    program: tuple[str, ...],
) -> Callable[[], None]:
    """Ask a training script where it could go NaN, before it does.

    SCRIPT runs up to its first steps and is ended there; checkpoints that it saves with torch.save are not written.
    What it prints goes to standard error. Each operation of a step is then asked whether its value or its derivative
    could be non-finite, for data between what was seen and parameters near where they are. Such an operation is a
    suspect; for each a witness is looked for: values for which the recorded step really fails.

    \b
    whynan check train.py --epochs 3             suspects, worst first, and a review of the first step
    whynan check --html check.html train.py      the same as a page
    whynan check --sarif check.sarif train.py    for code scanning
    whynan check --save found train.py           keep the witnesses; each says how it is replayed
    whynan check --replay found/01-log-of-zero-line-46 train.py
                                                 does it still fail, now that the line is mended?

    A comment at the end of a line accepts what is found on it: `# whynan: ok the mask is never empty`.

    Exit status: 0 nothing that is certain, 1 a suspect with a witness or an error of the review stands, 2 there was
    nothing to check (it says why), 130 Ctrl-C. Of a replay: 0 the step stays finite, 1 it fails, 2 the witness does not
    fit.
    """
    if module is None and not program:
        raise click.UsageError("no script given; try `whynan check train.py`, or `whynan check -m MODULE`")
    check_files({"--json": json_file, "--html": html_file, "--sarif": sarif_file})
    script = None if module is not None else program[0]
    run = RunOptions(
        out=Path.cwd(),
        argv=(module, *program) if module is not None else program,
        script=script,
        module=module,
        root=Path(execfile.user_root(script)),
    )
    places = {"json": json_file, "html": html_file, "sarif": sarif_file, "save": save_folder}
    outputs = {name: place.absolute() for name, place in places.items() if place is not None}
    if replayed is not None:
        return lambda: replay(run, replayed.absolute(), steps, wait, quiet)
    is_github = bool(os.environ.get("GITHUB_ACTIONS")) if github is None else github
    return lambda: launch(run, steps, budget, wait, outputs, is_github, quiet)


def launch(
    run: RunOptions,
    steps: int,
    budget: float,
    wait: float,
    outputs: dict[str, Path],
    is_github: bool,
    is_quiet: bool,
) -> None:
    _check_script(run)
    from whynan.check.session import CheckOptions, Session, progress_on

    folder, out, err = os.getcwd(), sys.stdout, sys.stderr
    host.install()
    session = Session(CheckOptions(run.script or run.module or "", steps, budget, wait, budget > 0))
    session.start()
    error = _run(run, is_quiet)
    sys.stdout, sys.stderr = out, err
    os.chdir(folder)
    if isinstance(error, KeyboardInterrupt):
        print("whynan: interrupted before the steps were made", file=sys.stderr)
        sys.exit(INTERRUPTED)
    try:
        result = session.finish(error, progress_on(sys.stderr))
    except KeyboardInterrupt:
        print("\nwhynan: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    try:
        status = say(result, outputs, is_github, run)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # whoever read has seen enough
        status = FOUND if result.has_errors else CLEAN
    # The script was left in the middle: its threads and handlers must not go on as if it had ended.
    os._exit(status)


def _run(run: RunOptions, is_quiet: bool) -> BaseException | None:
    out = sys.stdout
    try:
        sys.stdout = open(os.devnull, "w") if is_quiet else sys.stderr  # noqa: SIM115
        if is_quiet:
            sys.stderr = sys.stdout
        execfile.execute(run)
    except BaseException as error:
        return error
    finally:
        sys.stdout = out
    return None


def replay(run: RunOptions, folder: Path, steps: int, wait: float, is_quiet: bool) -> None:
    from whynan.check.session import CheckOptions, Session
    from whynan.check.show import render_replay
    from whynan.check.witness import read

    _check_script(run)
    try:
        saved = read(folder)
        here, out, err = os.getcwd(), sys.stdout, sys.stderr
        host.install()
        session = Session(CheckOptions(run.script or run.module or "", steps, 0, wait, False))
        session.start()
        error = _run(run, is_quiet)
        sys.stdout, sys.stderr = out, err
        os.chdir(here)
        if isinstance(error, KeyboardInterrupt):
            raise error
        found = session.replay(error, saved)
    except WitnessError as problem:
        print(f"whynan: {problem}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(NOTHING)
    except KeyboardInterrupt:
        print("\nwhynan: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    try:
        render_replay(found, saved, sys.stdout)
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        pass
    os._exit(FOUND if found.has_failed else CLEAN)


def _check_script(run: RunOptions) -> None:
    if run.script is not None:
        try:
            execfile.check_script(run.script)
        except NoScriptError as missing:
            print(f"whynan: {missing}", file=sys.stderr)
            sys.exit(NOTHING)


def say(result: Any, outputs: dict[str, Path], is_github: bool, run: RunOptions) -> int:
    """Render a result everywhere it is wanted; returns the exit status."""
    from whynan.check import show
    from whynan.check.witness import write

    show.render(result, sys.stdout)
    if is_github:
        for line in show.annotations(result):
            print(line)
    try:
        for name, made in (("json", result.to_json), ("sarif", lambda: show.sarif(result))):
            if name in outputs:
                outputs[name].write_text(json.dumps(made(), indent=1) + "\n", encoding="utf-8")
        if "html" in outputs:
            outputs["html"].write_text(show.page(result), encoding="utf-8")
        if "save" in outputs and result.problem is None:
            folders = write(result, outputs["save"], run.argv)
            show.render_saved(folders, ("-m", *run.argv) if run.module else run.argv, sys.stdout)
    except WitnessError as error:
        print(f"whynan: {error}", file=sys.stderr)
        return NOTHING
    except OSError as error:
        print(f"whynan: can't write {error.filename}: {error.strerror}", file=sys.stderr)
        return NOTHING
    return FOUND if result.has_errors else NOTHING if result.problem is not None else CLEAN
