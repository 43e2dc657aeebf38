"""The demo of MindSpore fails as it should, and its twin does not."""

import subprocess
import sys


def demo(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "whynan", "demo", "mindspore", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_demo_fails_and_is_diagnosed() -> None:
    done = demo()
    assert done.returncode == 0, done.stderr
    assert "return (ops.square(distance) / (2 * distance)).sum() / near.sum()" in done.stderr
    assert "[division-by-zero]" in done.stderr
    assert "also with whynan.mindspore.ops.div" in " ".join(done.stderr.split())


def test_its_twin_is_healthy() -> None:
    done = demo("--fixed")
    assert done.returncode == 0, done.stderr
    assert "because" not in done.stderr
