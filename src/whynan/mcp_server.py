"""An MCP server for editors and coding agents: run, data, report and explain, each as a tool.

It starts the script that it is asked to run and writes the report's folder; about everything else it only reads.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from whynan.errors import ReportError, UsageError

INSTRUCTIONS = (
    "whynan explains why a training run went NaN or Inf: the operation, the source line, the sample, the cause, and "
    "which change makes the same step finite (tried, not guessed). Call `run` with a training script, read the "
    "diagnosis, apply the patch that is marked as proved, run again. `data` checks a data set beforehand; `report` "
    "shows a saved diagnosis; `explain` is the catalogue of causes and remedies."
)
_TAIL = 4000


def run(script: str, args: list[str] | None = None, directory: str = ".", out: str = "whynan-out",
        budget: float = 60.0, timeout: float = 3600.0) -> str:  # fmt: skip
    """Run a training script unchanged, watched, until it ends or its loss, gradients or weights become NaN or Inf.

    Args:
        script: path of the Python script, relative to `directory`.
        args: the script's own arguments.
        directory: the working directory of the run.
        out: folder for report.json and report.html, relative to `directory`.
        budget: seconds that one failure may be examined for.
        timeout: seconds after which the run is ended.

    Returns the diagnosis as Markdown, with the exit status and the end of the script's output.
    """
    command = [sys.executable, "-m", "whynan", "run", "--out", out, "--budget", str(budget), script, *(args or [])]
    place = Path(directory)
    before = _stamp(place / out)
    try:
        done = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"The run did not end within {timeout:g} s and was stopped. Nothing was found until then."
    except OSError as error:
        return f"The run could not be started in {directory}: {error.strerror or error}"
    printed = f"Exit status {done.returncode}.\n\nEnd of standard output:\n\n{_fenced(done.stdout[-_TAIL:])}\n"
    if _stamp(place / out) == before:
        return f"No report was written.\n\n{printed}\nEnd of standard error:\n\n{_fenced(done.stderr[-_TAIL:])}"
    return f"{report(str(place / out))}\n{printed}"


def data(path: str, format: str = "auto", classes: int | None = None, ignore_index: int | None = None) -> str:
    """Check a data set (COCO, Pascal VOC, YOLO, masks, image folders, .npz, .csv, .parquet) for what breaks a loss.

    Args:
        path: folder or file of the data set.
        format: auto, coco, voc, yolo, masks, folder, npz, csv, parquet or webdataset.
        classes: number of classes, where labels are to be held against it.
        ignore_index: label or mask value that the loss ignores.

    Returns the summary and the findings, worst first.
    """
    command = [sys.executable, "-m", "whynan", "data", path, "--format", format]
    command += ["--classes", str(classes)] if classes is not None else []
    command += ["--ignore-index", str(ignore_index)] if ignore_index is not None else []
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout or done.stderr


def report(directory: str = "whynan-out", as_json: bool = False) -> str:
    """Show a saved report again.

    Args:
        directory: folder with report.json.
        as_json: return report.json itself and not its text.

    Returns Markdown: what, where, why, which sample, what was tried, the patch.
    """
    from whynan.report.markdown import render
    from whynan.report.saved import load

    place = Path(directory)
    try:
        saved = load(place)
    except ReportError as error:
        return f"No report: {error}"
    return json.dumps(saved) if as_json else render(saved, (Path(), place.parent))


def explain(slug: str | None = None) -> str:
    """Explain a cause or a remedy: what it is, how it looks, bad and good code.

    Args:
        slug: for example log-of-zero or stable-loss; without it all of them are listed.
    """
    command = [sys.executable, "-m", "whynan", "explain", *([slug] if slug else [])]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    return done.stdout or done.stderr


def make_server() -> Any:
    """Return the server. Raises UsageError where the MCP SDK is not installed."""
    server_class = _server_class()
    server = server_class("whynan", instructions=INSTRUCTIONS)
    hints = importlib.import_module("mcp.types").ToolAnnotations.model_validate
    for tool in (run, data, report, explain):
        server.tool(annotations=hints({"readOnlyHint": tool is not run, "openWorldHint": False}))(tool)
    return server


def _server_class() -> Any:
    """Return the SDK's server: `MCPServer` since its version 2, `FastMCP` before."""
    for module, name in (("mcp.server.mcpserver", "MCPServer"), ("mcp.server.fastmcp", "FastMCP")):
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue
    raise UsageError("the MCP SDK is not installed: pip install 'whynan[mcp]'")


def _stamp(out: Path) -> int | None:
    try:
        return (out / "report.json").stat().st_mtime_ns
    except OSError:
        return None


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"
