"""How often `whynan check` names the true line before the run has failed, and how often it leaves a repaired one alone.

    python benchmarks/check.py tests/cases                   every case of the folder
    python benchmarks/check.py tests/cases --only gan-minimax -v

Counted are cases whose cause lies in the mathematics, the precision, the loss or the architecture: there the line is at
fault. `recall`: train.py's true line is among the suspects. `repaired`: the same line of fixed.py is not. `true`: of
all suspects of those cases' train.py (and of those with a witness) the share on true lines; the rest has to be read by
somebody. Of controls, which are healthy, and of the other cases only the number of suspects is given.
"""

import argparse
import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COUNTED = {
    "log-of-zero",
    "division-by-zero",
    "sqrt-at-zero",
    "exp-overflow",
    "domain-error",
    "fully-masked-softmax",
    "where-gradient-trap",
    "inf-minus-inf",
    "empty-reduction",
    "half-precision-overflow",
    "half-precision-underflow",
    "missing-grad-scaling",
    "normalization-zero-variance",
    "custom-backward",
    "uninitialized-memory",
    "loss-input-mismatch",
}
FRAMEWORKS = ("torch", "jax", "keras-torch", "keras-jax")


def check(script: Path, budget: float) -> dict[str, Any]:
    """Run `whynan check` on a script; returns what it wrote as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "check.json"
        command = [
            sys.executable,
            "-m",
            "whynan",
            "check",
            "--quiet",
            "--budget",
            str(budget),
            "--json",
            str(out),
            script.name,
        ]
        began = time.monotonic()
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, env=environment, timeout=300)
        found: dict[str, Any] = (
            json.loads(out.read_text())
            if out.exists()
            else {"suspects": [], "review": [], "problem": done.stderr[-400:]}
        )
        found["wall"] = time.monotonic() - began
    return found


def true_lines(source: list[str], needle: str | None) -> set[int]:
    """Return the line numbers of the case's line, its neighbours of the same statement included."""
    import ast

    found = {number for number, line in enumerate(source, 1) if needle and needle in line}
    for node in ast.walk(ast.parse("\n".join(source))):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            if lines & found:
                found |= lines
    return found


def same_lines(before: list[str], after: list[str], lines: set[int]) -> set[int]:
    """Return where those lines of one version stand in another."""
    found = set()
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for number in lines:
            if a < number <= b:
                found |= {c + number - a} if tag == "equal" else set(range(c + 1, d + 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--framework", nargs="*", default=list(FRAMEWORKS))
    parser.add_argument("--budget", type=float, default=10.0)
    parser.add_argument("--no-fixed", action="store_true")
    parser.add_argument("--counted", action="store_true", help="only the cases that are counted")
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    cases = sorted({path.parent for folder in options.folders for path in folder.rglob("case.json")})
    total = dict.fromkeys(
        ("cases", "found", "fixed", "left", "suspects", "true", "witnessed", "witnessed_true", "controls", "alarms"), 0
    )
    for case in cases:
        truth = json.loads((case / "case.json").read_text())
        if truth["framework"] not in options.framework or (options.only and case.name not in options.only):
            continue
        if options.counted and truth.get("cause") not in COUNTED:
            continue
        source = (case / "train.py").read_text().splitlines()
        result = check(case / "train.py", options.budget)
        suspects = result["suspects"]
        counted = truth.get("cause") in COUNTED
        lines = true_lines(source, (truth.get("origin") or {}).get("line_contains"))
        hits = [s for s in suspects if s["line"] in lines and s["file"].endswith("train.py")]
        left = None
        if counted and not options.no_fixed:
            fixed = (case / "fixed.py").read_text().splitlines()
            after = check(case / "fixed.py", 0)  # whether there is a suspect, not whether it fails
            places = same_lines(source, fixed, lines)
            left = [s for s in after["suspects"] if s["line"] in places]
            total["fixed"] += 1
            total["left"] += not left and not after.get("problem")
        if counted:
            total["cases"] += 1
            total["found"] += bool(hits)
            total["suspects"] += len(suspects)
            total["true"] += len(hits)
            total["witnessed"] += sum(s["witness"] for s in suspects)
            total["witnessed_true"] += sum(s["witness"] for s in hits)
        elif truth.get("cause") in (None, "none"):
            total["controls"] += 1
            total["alarms"] += sum(s["witness"] for s in suspects)
        print(
            f"{case.name:32} {truth.get('cause')!s:28} {'FOUND' if hits else 'missed' if counted else '-':7}"
            f"{'' if left is None else 'repaired' if not left else 'STILL':9} {len(suspects):2} suspects, "
            f"{sum(s['witness'] for s in suspects)} with witness {result['wall']:5.1f} s "
            f"{result.get('problem') or ''}",
            flush=True,
        )
        if options.verbose:
            for s in suspects:
                mark = "*" if s in hits else " "
                print(
                    f"   {mark}{'W' if s['witness'] else ' '} {s['line']:4} {s['op']:12} {s['phase'][:3]} "
                    f"{s['cause']:24} {s['code'][:60]}"
                )
                print(f"        {s['why'][:150]} | {s['search'] and s['search']['how'][:60]}")
            for s in left or []:
                print(f"   STILL {s['line']:4} {s['op']:12} {s['cause']:24} {s['code'][:70]}\n        {s['why'][:150]}")
            for f in result["review"]:
                print(f"     {f['severity']:8} {f['check']:24} {f['message'][:120]}")
    share = lambda a, b: f"{a} of {b}" + (f" ({100 * a / b:.0f} %)" if b else "")  # noqa: E731
    print(f"\nrecall            {share(total['found'], total['cases'])}")
    print(f"repaired          {share(total['left'], total['fixed'])}")
    print(f"on true lines     {share(total['true'], total['suspects'])}")
    print(f"with a witness    {share(total['witnessed_true'], total['witnessed'])}")
    print(f"controls          {total['controls']}, {total['alarms']} suspects with a witness in all")


if __name__ == "__main__":
    main()
