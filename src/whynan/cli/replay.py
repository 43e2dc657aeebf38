"""`whynan replay`: the failing step of a capsule, run again in the script that it came from."""

from collections.abc import Callable
from pathlib import Path

import click

from whynan.cli.run import launch
from whynan.errors import CapsuleError
from whynan.launch import execfile
from whynan.launch.options import RunOptions


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
    from whynan.adapters.torch.capsule import check

    try:
        check(capsule)
    except CapsuleError as error:
        raise click.UsageError(str(error)) from None
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
