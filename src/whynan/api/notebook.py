"""`%load_ext whynan` and `%%whynan`: a notebook cell under watch. The cell is compiled as a script is."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from whynan.api.engine import Engine
from whynan.api.report import Report
from whynan.launch.host import Unwind
from whynan.launch.options import RunOptions
from whynan.launch.rewrite import rewrite


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext whynan`."""
    shell.register_magic_function(lambda line, cell: run_cell(shell, line, cell), "cell", "whynan")


def run_cell(shell: Any, line: str, cell: str) -> Report | None:
    """Run a cell under watch and return its report, which shows itself; None where the cell raised.

    `line` may hold `--policy stop|recover|observe`, `--budget SECONDS`, `--no-prove`.
    """
    import torch  # noqa: F401  the cell's own framework: without it there would be nothing to watch

    options = _options(line)
    engine = Engine(options, None)
    # IPython keeps a cell's source under this name, for tracebacks and for us.
    source = shell.transform_cell(cell)
    filename = shell.compile.cache(source, shell.execution_count, raw_code=cell)
    rewritten = rewrite(source.encode(), filename)
    engine.know(filename)
    engine.register(filename, rewritten)
    try:
        exec(rewritten.code, shell.user_ns)
    except Unwind:
        pass
    except BaseException:
        engine.close()
        raise
    report = engine.report()
    engine.close()
    return report


def _options(line: str) -> RunOptions:
    parser = argparse.ArgumentParser(prog="%%whynan")
    parser.add_argument("--policy", choices=("stop", "recover", "observe"), default="stop")
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--no-prove", action="store_true")
    given = parser.parse_args(shlex.split(line))
    return RunOptions(out=Path(), policy=given.policy, budget=given.budget, prove=not given.no_prove, argv=("cell",))
