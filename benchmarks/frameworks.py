"""What watching costs in Keras, TensorFlow, JAX, MindSpore and NumPy, beside what each
framework has itself; and the lines found.

    python benchmarks/frameworks.py [--rounds 5] [--steps 200] [WORKLOAD ...]
    python benchmarks/frameworks.py --lines [FOLDER ...]

In each round the plain script, whynan and the framework's own check run in turn (`tf.debugging.enable_check_numerics`,
`jax_debug_nans`, `np.seterr(all="raise")`), and each is held against the plain run of its own round. Prints the median
over the rounds of the ratios, for the mean of the fastest quarter of the steps and for the median step. `--lines` runs
the scripts of tests/cases_frameworks, or of the folders given, under both and counts the lines that are right.
"""

import argparse
import ast
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CASES = HERE.parent / "tests" / "cases_frameworks"
PEER = {
    "keras-fit": "numerics",
    "tf-eager": "numerics",
    "jax-jit": "debug-nans",
    "numpy": "seterr",
    # In an environment of its own, and without a check of its own on the CPU.
    "ms-pynative": None,
    "ms-graph": None,
}
SWITCH = {
    "tensorflow": "import tensorflow as tf; tf.debugging.enable_check_numerics()",
    "jax": "import jax; jax.config.update('jax_debug_nans', True)",
    "numpy": "import numpy as np; np.seterr(all='raise', under='ignore')",
}


def time_step(workload: str, steps: int, tool: str | None) -> tuple[float, float]:
    """Median and fast steps in milliseconds."""
    with tempfile.TemporaryDirectory() as out:
        whynan = [sys.executable, "-m", "whynan", "run", "--out", out]
        command = [*(whynan if tool == "whynan" else [sys.executable]), str(HERE / "framework_steps.py"), workload]
        command += [str(steps), *([tool] if tool not in (None, "whynan") else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"step_ms ([\d.]+) ([\d.]+)", done.stdout)
    if found is None:
        sys.exit(f"{workload} under {tool}: {(done.stdout + done.stderr).strip()[-400:]}")
    return float(found[1]), float(found[2])


def measure(workload: str, rounds: int, steps: int) -> None:
    tools = ("whynan", PEER[workload]) if PEER[workload] is not None else ("whynan",)
    ratios: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    plains = []
    for number in range(rounds):
        plain = time_step(workload, steps, None)
        plains.append(plain[0])
        print(f"{workload:10} round {number + 1}: plain {plain[0]:.3f} ms", file=sys.stderr, flush=True)
        for tool in tools:
            timed = time_step(workload, steps, tool)
            print(f"{workload:10} round {number + 1}: {tool} {timed[0]:.3f} ms", file=sys.stderr, flush=True)
            ratios[tool].append((timed[0] / plain[0], timed[1] / plain[1]))
    for tool, rows in ratios.items():
        median, fast = (statistics.median(column) for column in zip(*rows))
        step = statistics.median(plains)
        print(
            f"{workload:10} plain {step:8.3f} ms  {tool:10} fast steps x{fast:.3f}  median step x{median:.3f}",
            flush=True,
        )


def lines(folders: list[Path]) -> None:
    """Count right lines: whynan's report, and the innermost line of the script in the exception of the peer."""
    right: dict[str, list[bool]] = {"whynan": [], "own check": []}
    for file in sorted(path for root in folders for path in root.rglob("case.json")):
        case = json.loads(file.read_text())
        truth = (case.get("origin") or {}).get("line_contains")
        backend = case["framework"].removeprefix("keras-")
        if not truth or backend not in SWITCH:
            continue
        source = (file.parent / "train.py").read_text()
        answers = {"whynan": _by_whynan(file.parent), "own check": _by_peer(file.parent, SWITCH[backend])}
        for tool, line in answers.items():
            right[tool].append(_is_right(source, truth, line))
        print(f"{case['name']:34} " + "  ".join(f"{tool} {line}" for tool, line in answers.items()), flush=True)
    for tool, answers_of in right.items():
        print(f"{tool}: {sum(answers_of)} of {len(answers_of)} lines")


def _by_whynan(folder: Path) -> int | None:
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / "train.py", place)
        command = [sys.executable, "-m", "whynan", "run", "--no-prove", "--out", f"{place}/out", "train.py"]
        subprocess.run(command, cwd=place, capture_output=True, check=False)
        incidents = json.loads(Path(place, "out", "report.json").read_text())["incidents"]
    origin = incidents[0]["origin"] if incidents else None
    return origin["line"] if origin else None


def _by_peer(folder: Path, switch: str) -> int | None:
    source = (folder / "train.py").read_text()
    backend = re.search(r"KERAS_BACKEND\"\] = \"(\w+)\"", source)
    env = {**os.environ, **({"KERAS_BACKEND": backend[1]} if backend else {})}
    code = f"{switch}\nexec(compile(open('train.py').read(), 'train.py', 'exec'), {{'__name__': '__main__'}})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    if done.returncode == 0:
        return None
    named = re.findall(r"train\.py\"?, line (\d+)|train\.py:(\d+)", done.stderr)
    found = [int(a or b) for a, b in named]
    return found[-1] if found else None


def _is_right(source: str, truth: str, line: int | None) -> bool:
    wanted = next(n for n, text in enumerate(source.splitlines(), 1) if truth in text)
    spans = [(n.lineno, n.end_lineno or n.lineno) for n in ast.walk(ast.parse(source))
             if isinstance(n, ast.stmt) and not hasattr(n, "body")]  # fmt: skip
    return line == wanted or any(a <= wanted <= b and a <= (line or 0) <= b for a, b in spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workloads, or folders of cases with --lines")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lines", action="store_true")
    args = parser.parse_args()
    if args.lines:
        lines([Path(name) for name in args.names] or [CASES])
        return
    for workload in args.names or [name for name in PEER if not name.startswith("ms-")]:
        measure(workload, args.rounds, args.steps)


if __name__ == "__main__":
    main()
