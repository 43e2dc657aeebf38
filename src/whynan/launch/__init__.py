"""How a program is run while it is watched; here what the user asked `whynan run` for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whynan.recovery import Limits

Policy = Literal["stop", "recover", "observe"]


@dataclass(frozen=True)
class RunOptions:
    """Options of one run. Exactly one of `script` and `module` is given; `argv` is the program's own `sys.argv`.

    `out` is absolute, since the program may change the working directory. `root` is the directory of the user's code.
    """

    out: Path
    policy: Policy = "stop"
    prove: bool = True
    budget: float = 60.0
    rerun: bool = False
    argv: tuple[str, ...] = ()
    script: str | None = None
    module: str | None = None
    root: Path = field(default_factory=Path.cwd)
    capsule: bool = False
    """Save the failing step, so that it can be run again elsewhere; `capsule_data`: with its batch."""
    capsule_data: bool = False
    replay: Path | None = None
    """The capsule whose step is run again."""
    limits: Limits = field(default_factory=Limits)
    """How far `recover` goes."""
    boxes_of: tuple[str, ...] = ()
    """Modules, by dotted path or class name, whose output is boxes: they are drawn as the RPN's are."""
    status: bool = True
    """Show a status line where standard error is a terminal."""
    tensorboard: Path | None = None
    """Folder for an event file of TensorBoard."""
    json_file: str | None = None
    """Where report.json is written too; "-" is standard output."""

    def flags(self) -> list[str]:
        """Return the options of `whynan run` that make another process of the same job be watched alike."""
        found = ["--out", str(self.out), "--policy", self.policy, "--budget", f"{self.budget:g}", "--no-status"]
        found += [] if self.prove else ["--no-prove"]
        found += ["--capsule-data"] if self.capsule_data else ["--capsule"] if self.capsule else []
        for name in self.boxes_of:
            found += ["--boxes", name]
        return found
