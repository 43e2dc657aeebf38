"""What watching costs: the time of a training step under whynan, and under other tools, over that of the plain step.

    python benchmarks/overhead.py [--rounds 5] [--steps 30] [--tools whynan,anomaly,…] [WORKLOAD ...]

In each round the plain script and every tool run in turn, and each is held against the plain run of its own round, so
that a machine that gets slower spoils no ratio. Prints the median over the rounds, for the fastest and the median step,
and how much more memory was resident at most (of whynan's most are snapshots, which docs/architecture.md bounds).
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
WORKLOADS = ["resnet18", "deeplabv3", "fasterrcnn", "transformer"]
UNDER_PEER = [sys.executable, str(HERE / "under_peer.py")]
TOOLS = {
    "whynan": [sys.executable, "-m", "whynan", "run", "--out"],
    "anomaly": [*UNDER_PEER, "anomaly"],
    "sherlorch": [*UNDER_PEER, "sherlorch"],
    "torchlens": [*UNDER_PEER, "torchlens"],
}


def time_step(tool: str | None, workload: str, steps: int) -> tuple[float, float, float] | str:
    """Median and fastest step in milliseconds and resident memory in MiB, or why there is none."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable] if tool is None else [*TOOLS[tool], out] if tool == "whynan" else TOOLS[tool]
        command = [*command, str(HERE / "training.py"), workload, str(steps)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        except subprocess.TimeoutExpired:
            return "took more than 15 minutes"
    found = re.search(r"step_ms ([\d.]+) ([\d.]+) resident_mib (\d+)", done.stdout)
    if found is None:
        return (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1][:160]
    return float(found[1]), float(found[2]), float(found[3])


def measure(workload: str, tools: list[str], rounds: int, steps: int) -> None:
    ratios: dict[str, list[tuple[float, float, float]]] = {tool: [] for tool in tools}
    for _ in range(rounds):
        plain = time_step(None, workload, steps)
        if isinstance(plain, str):
            sys.exit(f"{workload}: {plain}")
        for tool in tools:
            timed = time_step(tool, workload, steps)
            if isinstance(timed, str):
                print(f"{workload:12} {tool:10} cannot: {timed}", flush=True)
                ratios[tool].clear()
                tools = [other for other in tools if other != tool]
            else:
                ratios[tool].append((timed[0] / plain[0], timed[1] / plain[1], timed[2] - plain[2]))
    for tool, rows in ratios.items():
        if rows:
            median, fastest, more = (statistics.median(column) for column in zip(*rows))
            times = f"fastest step x{fastest:.3f}  median step x{median:.3f}"
            print(f"{workload:12} {tool:10} {times}  resident {more:+.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tools", default=",".join(TOOLS))
    args = parser.parse_args()
    for workload in args.workloads:
        measure(workload, args.tools.split(","), args.rounds, args.steps)


if __name__ == "__main__":
    main()
