"""What watching costs inside trainers and jobs: the time of a step under whynan over that of the plain step.

    python benchmarks/trainers.py [--rounds 5] [--steps 90] [lightning|transformers|ddp|compiled ...]

Plain and watched runs take turns; each ratio is within one round. `ddp` is a job of two processes over gloo, watched
with `torchrun ... -m whynan run`, `compiled` a ResNet-18 under `torch.compile`. Prints the median over the rounds, for
the fastest and the median step. The limit is 1.03.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = str(Path(__file__).parent / "trainer_steps.py")
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def time_step(workload: str, steps: int, watched: bool) -> tuple[float, float]:
    """Median and fastest step in milliseconds."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, *(LAUNCHER if workload == "ddp" else [])]
        if watched:
            command += ["-m", "whynan", "run", "--out", out]
        command += [SCRIPT, workload, str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=out)
    found = re.search(r"step_ms ([\d.]+) ([\d.]+)", done.stdout)
    if found is None:
        sys.exit(f"{workload}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return float(found[1]), float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workloads", nargs="*", default=["lightning", "transformers", "ddp", "compiled"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=90)
    options = parser.parse_args()
    for workload in options.workloads:
        ratios = []
        for _ in range(options.rounds):
            plain = time_step(workload, options.steps, False)
            watched = time_step(workload, options.steps, True)
            ratios.append((watched[0] / plain[0], watched[1] / plain[1]))
        median, fastest = (statistics.median(column) for column in zip(*ratios))
        spread = f"{min(r[0] for r in ratios):.3f} to {max(r[0] for r in ratios):.3f}"
        print(f"{workload:14} fastest step x{fastest:.3f}  median step x{median:.3f} ({spread})", flush=True)


if __name__ == "__main__":
    main()
