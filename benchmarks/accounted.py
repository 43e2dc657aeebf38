"""What share of a step is whynan's own, accounted inside the process: a figure that a busy machine does not blur.

    python benchmarks/accounted.py [--steps 60] [WORKLOAD ...]

Every entry of the watch into the program (loops, backward passes, optimizer steps, numbers read) is timed where it
enters, nested entries once, in the thread's own processor time; the first steps, in which whynan learns what there is,
are left out. Prints own time over step time, for the whole run and for the median step.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
HERE = Path(__file__).parent
WORKLOADS = ["resnet18", "deeplabv3", "fasterrcnn", "transformer"]
TRAINERS = ["lightning", "transformers", "ddp", "compiled"]

INSTRUMENTED = """
import atexit, os, statistics, sys, time
import whynan.pipeline as pipeline

spent, marks, depth = [0.0], [], [0]

def timed(owner, name):
    plain = getattr(owner, name)
    def call(*args, **kwargs):
        if depth[0]:
            return plain(*args, **kwargs)
        depth[0] = 1
        began = time.thread_time()
        try:
            return plain(*args, **kwargs)
        finally:
            spent[0] += time.thread_time() - began
            depth[0] = 0
    setattr(owner, name, call)

attach = pipeline.Session.attach_torch

def attach_and_time(self, module):
    from whynan.adapters.torch import host, sites, trainers, watch
    from whynan.adapters.torch.ranks import verdict
    for name in ("_look_at_roots", "_look_at_gradients", "_before_step", "_after_step"):
        timed(watch.Watch, name)
    for name in ("run_again", "failed", "leave", "drawn"):
        timed(host.TorchHost, name)
    timed(sites.Loops, "begin")
    timed(trainers._Progress, "__init__")
    for name in ("before_backward", "before_update", "step_is_over"):
        timed(verdict.Ranks, name)
    after = watch.Watch._after_step
    def note(self, optimizer):
        after(self, optimizer)
        marks.append((time.perf_counter(), spent[0]))
    watch.Watch._after_step = note
    attach(self, module)

pipeline.Session.attach_torch = attach_and_time

@atexit.register
def show():
    rows = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(marks[5:], marks[6:])]
    whole = sum(own for _, own in rows) / sum(step for step, _ in rows)
    if int(os.environ.get("RANK", 0)):
        return
    print(f"own_share {whole:.5f} {statistics.median(own / step for step, own in rows):.5f}")

from whynan.cli.main import main
sys.argv[:] = ["whynan", "run", "--out", *sys.argv[1:]]
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=[*WORKLOADS, *TRAINERS])
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    for workload in args.workloads:
        with tempfile.TemporaryDirectory() as out:
            (Path(out) / "watched.py").write_text(INSTRUMENTED)
            launcher = LAUNCHER if workload == "ddp" else []
            script = HERE / ("trainer_steps.py" if workload in TRAINERS else "training.py")
            command = [sys.executable, *launcher, "watched.py", "out", str(script), workload, str(args.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
        found = re.search(r"own_share ([\d.]+) ([\d.]+)", done.stdout)
        if found is None:
            print(f"{workload:12} cannot: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
            continue
        print(f"{workload:12} whole run {float(found[1]):.2%}  median step {float(found[2]):.2%}", flush=True)


if __name__ == "__main__":
    main()
