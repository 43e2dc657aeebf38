"""Thousands of steps with faults at random places under `--policy recover`: all found, nothing else, memory flat.

    python benchmarks/soak.py [--steps 20000] [--faults 50] [--seed 0]

Each fault has to be undone in its own step, and no other step may be. Memory is the resident set at 20 places of the
run. Exit status 1 where a fault was missed or a healthy step was taken for one.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SCRIPT = str(Path(__file__).parent / "soak_steps.py")


def soak(steps: int, faults: int | list[tuple[int, str]], seed: int) -> dict[str, Any]:
    """Run the steps under whynan; return what was made, what was found, and memory in bytes.

    `faults` are so many at random places, or each one's step and kind (a function's name in soak_steps.py).
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "whynan", "run", "--policy", "recover", "--no-prove", "--out", out]
        began = time.monotonic()
        done = subprocess.run(
            [*command, SCRIPT, str(steps), json.dumps(faults), str(seed)],
            capture_output=True,
            text=True,
            check=False,
            cwd=out,
        )
        if done.returncode:
            sys.exit(f"status {done.returncode}: {done.stderr[-2000:]}")
        made = json.loads(done.stdout.splitlines()[-1])
        report = json.loads((Path(out) / "report.json").read_text())
    # Steps are counted without those that were undone: of the n-th fault n have been before it.
    expected = [place - n for n, (place, _) in enumerate(made["faults"])]
    found = [int(step) for step in re.findall(r"^whynan: step (\d+): .*; ", done.stderr, re.MULTILINE)]
    missing = Counter(expected) - Counter(found)
    return {
        "seconds": time.monotonic() - began,
        "missed": [fault for fault, step in zip(made["faults"], expected) if step in missing],
        "false": sorted((Counter(found) - Counter(expected)).elements()),
        "found": len(found),
        "explained": len(report["incidents"]),
        "reproduced": sum(incident["replay"]["reproduced"] for incident in report["incidents"]),
        "causes": Counter(i["causes"][0]["slug"] if i["causes"] else None for i in report["incidents"]),
        "memory": made["memory"],
        "finite": made["finite"],
        "loss": made["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = soak(options.steps, options.faults, options.seed)
    memory = [value / 2**20 for value in result["memory"]]
    print(f"{options.steps} steps, {options.faults} faults, seed {options.seed}: {result['seconds']:.0f} s")
    print(f"found {result['found']}, missed {result['missed']}, false {result['false']}, finite {result['finite']}")
    print(f"explained {result['explained']}, reproduced {result['reproduced']}: {dict(result['causes'])}")
    print("memory in MiB: " + " ".join(f"{value:.0f}" for value in memory))
    sys.exit(1 if result["missed"] or result["false"] or not result["finite"] else 0)


if __name__ == "__main__":
    main()
