"""Start the processes of a job as a launcher does, and read the one report that they leave."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Job:
    statuses: list[int]
    stdout: str
    stderr: str
    report: Any

    @property
    def incident(self) -> Any:
        (incident,) = self.report["incidents"]
        return incident


def start(place: Path, script: str, size: int, *options: str, watched: bool = True, is_one: bool = False) -> Job:
    """Run `script` as `size` processes; `is_one`: as one process, which starts the others itself."""
    place.mkdir(exist_ok=True)
    (place / "train.py").write_text(script.lstrip())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1", "CI": "", "GITHUB_ACTIONS": ""}  # which would add files and annotations
    program = ["-m", "whynan", "run", *options, "train.py"] if watched else ["train.py"]
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(size)} for r in range(size)]
    processes = [
        subprocess.Popen(
            [sys.executable, *program],
            cwd=place,
            env={**environment, **rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ([{}] if is_one else ranks)
    ]
    try:
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    saved = place / "whynan-out" / "report.json"
    return Job(
        [process.returncode for process in processes],
        "".join(out for out, _ in outputs),
        "\n".join(err for _, err in outputs),
        json.loads(saved.read_text()) if saved.exists() else None,
    )


def line_of(script: str) -> int:
    """Return the number of the line that ends in `# BAD`."""
    return next(n for n, text in enumerate(script.lstrip().splitlines(), 1) if text.endswith("# BAD"))
