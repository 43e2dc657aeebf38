"""Which tool names the right line: each over the scripts of tests/cases, held against the truth in case.json.

    python benchmarks/localization.py [--tools whynan,anomaly,…] [--json FILE] [FOLDER ...]

whynan gets the unchanged script. The others get what their users would need a bisection for, the number of the failing
step (see under_peer.py), and the better one of two answers where a tool has two (torchlens: forward and backward). An
answer is right when it is a line of the statement that case.json names; cases without such a line are left out.
"""

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CASES = HERE.parent / "tests" / "cases"
TIMEOUT_S = 300
TORCHLENS = ["torchlens", "torchlens-backward"]
TOOLS = {"whynan": [], "anomaly": ["anomaly"], "sherlorch": ["sherlorch"], "torchlens": TORCHLENS}


def run(command: list[str], cwd: Path) -> str:
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        ).stdout
    except subprocess.TimeoutExpired:
        return ""


def under_peer(peer: str, cwd: Path, step: int | None = None) -> dict:
    at = [] if step is None else ["--step", str(step)]
    output = run([sys.executable, str(HERE / "under_peer.py"), peer, *at, "train.py"], cwd)
    try:
        answer = json.loads(output.rstrip().rpartition("\n")[2])
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def lines_of_whynan(cwd: Path) -> list[int]:
    run([sys.executable, "-m", "whynan", "run", "--no-prove", "train.py"], cwd)
    report = cwd / "whynan-out" / "report.json"
    incidents = json.loads(report.read_text())["incidents"] if report.exists() else []
    origin = (incidents or [{}])[0].get("origin") or {}
    return [origin["line"]] if origin.get("line") and Path(origin.get("file") or "").name == "train.py" else []


def lines_of(tool: str, cwd: Path, step: int | None) -> list[int]:
    """The lines that a tool names, at most one for each of its modes."""
    if tool == "whynan":
        return lines_of_whynan(cwd)
    answers = [under_peer(peer, cwd, None if peer == "anomaly" else step) for peer in TOOLS[tool]]
    return [answer["line"] for answer in answers if answer.get("line")]


def right_lines(source: str, contains: str) -> set[int]:
    """Lines of the simple statements in which the text stands."""
    marked = {number for number, line in enumerate(source.splitlines(), 1) if contains in line}
    spans = [
        range(node.lineno, node.end_lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and not hasattr(node, "body")
    ]
    return marked.union(*(span for span in spans if marked & set(span)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[CASES])
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tools, rows = args.tools.split(","), []
    for folder in sorted(path.parent for root in args.folders for path in root.rglob("case.json")):
        case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
        contains = (case.get("origin") or {}).get("line_contains")
        if case["framework"] != "torch" or not contains:
            continue
        right = right_lines((folder / "train.py").read_text(encoding="utf-8"), contains)
        row = {"case": folder.name}
        with tempfile.TemporaryDirectory() as tmp:
            shutil.copy(folder / "train.py", tmp)
            step = under_peer("probe", Path(tmp)).get("step") if set(tools) - {"whynan", "anomaly"} else None
            for tool in tools:
                named = lines_of(tool, Path(tmp), step)
                row[tool] = "right" if right & set(named) else "wrong" if named else "none"
        rows.append(row)
        print(f"{folder.name:32} " + "  ".join(f"{tool} {row[tool]}" for tool in tools), flush=True)
    for tool in tools:
        counts = [sum(row[tool] == verdict for row in rows) for verdict in ("right", "wrong", "none")]
        print(f"{tool:10} right {counts[0]} of {len(rows)}, wrong {counts[1]}, none named {counts[2]}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
