"""The line stands in its own row of a terminal, and nowhere else."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

from tests.live.conftest import HEALTHY

from whynan.live import Beat, Pulse, StatusLine, words
from whynan.watching import RunHistory


def on_terminal(folder, *options, lines=24, columns=100, script=HEALTHY, **environment):
    """Run a script with a terminal as its streams; return what the terminal got."""
    (folder / "train.py").write_text(script)
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key != "CI"} | {"TERM": "xterm"} | environment
    command = [sys.executable, "-m", "whynan", "run", *options, "train.py"]
    with subprocess.Popen(command, cwd=folder, stdin=child, stdout=child, stderr=child, env=kept) as process:
        os.close(child)
        seen = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the other side is closed
                break
            if not part:
                break
            seen += part
    os.close(parent)
    assert process.returncode == 0
    return seen.decode()


def test_line_has_the_last_row_and_gives_it_back(tmp_path):
    seen = on_terminal(tmp_path)
    assert "\x1b[1;23r" in seen
    drawn = re.findall(r"\x1b\[24;1H\x1b\[2K\x1b\[2m(whynan watches[^\x1b]*)\x1b\[0m\x1b8", seen)
    assert len(drawn) >= 2
    assert re.search(r"step \d+  loss [\d.e-]+", drawn[-1])
    # The rows are whole again at the end, and the row of the line is empty.
    assert seen.rstrip().endswith("\x1b7\x1b[r\x1b[24;1H\x1b[2K\x1b8")


def test_output_of_the_script_is_whole(tmp_path):
    seen = on_terminal(tmp_path)
    plain = re.sub(r"\x1b7.*?\x1b8|\x1b\[1A", "", seen, flags=re.DOTALL)
    assert re.findall(r"step (\d+)", plain) == ["0", "10", "20", "30"]
    assert re.findall(r"progress (\d+)\r", plain) == ["0", "10", "20", "30"]
    assert "done" in plain


def test_no_line_where_there_is_none_to_be(tmp_path):
    assert "watches" not in on_terminal(tmp_path, "--no-status")
    assert "watches" not in on_terminal(tmp_path, lines=4)


def test_a_line_is_wanted_on_a_terminal_that_can_move_its_cursor_only(monkeypatch):
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal, open(os.devnull, "w") as nowhere:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("CI", raising=False)
        assert StatusLine.wanted(terminal)
        assert not StatusLine.wanted(nowhere)
        assert not StatusLine.wanted(None)
        for name, value in (("TERM", "dumb"), ("CI", "true")):
            with monkeypatch.context() as context:
                context.setenv(name, value)
                assert not StatusLine.wanted(terminal)
    os.close(parent)


def test_pipes_get_the_bytes_of_a_plain_run(watched, tmp_path):
    done = watched(HEALTHY)
    plain = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr)


def test_words_are_short_and_clean():
    beat = Beat(120, 0.53125, 12345.678, 0.01, 65536.0, {"cls\x1b[2J": 0.2, "box": 0.33})
    assert words(beat) == (
        "whynan watches  step 120  loss 0.5312 (cls\\x1b[2J 0.2, box 0.33)  |grad| 1.235e+04  lr 0.01  scale 6.554e+04"
    )


class Broken:
    interval = 0.0
    n_shown = 0

    def show(self, beat):
        self.n_shown += 1
        raise OSError("the terminal has gone")

    def close(self):
        raise OSError("the terminal has gone")


def test_a_viewer_that_fails_is_not_asked_again(capfd):
    pulse, broken = Pulse(), Broken()
    pulse.add(broken)
    history = RunHistory()
    history.on_step = pulse.step
    for loss in (1.0, 0.5, 0.25):
        history.loss.append(loss)
        history.ended_step()
    pulse.close()
    assert broken.n_shown == 1
    assert pulse.n_steps == 3


BAR = HEALTHY.replace(
    "for step in range(40):", "from tqdm import tqdm\nfor step in tqdm(range(40), ncols=60):"
).replace('print("progress", step, end="\\r", file=sys.stderr, flush=True)', "pass")


def test_a_terminal_shows_output_progress_bar_and_line_each_in_its_place(tmp_path):
    """A terminal emulator in place of eyes."""
    import pyte

    seen = on_terminal(tmp_path, script=BAR.replace('print("step"', 'tqdm.write("step %d" % step) or ("step"'))
    screen = pyte.Screen(100, 24)
    stream = pyte.Stream(screen)
    # Up to the last drawing of the line: then the run is under way.
    at = seen.rindex("whynan watches")
    stream.feed(seen[: seen.index("\x1b8", at) + 2])
    rows = [row.rstrip() for row in screen.display]
    assert rows[23].startswith("whynan watches  step")
    assert [row for row in rows[:23] if row.startswith("step")] == ["step 0", "step 10", "step 20", "step 30"]
    assert sum("it/s" in row for row in rows[:23]) == 1
    stream.feed(seen[seen.index("\x1b8", at) + 2 :])
    rows = [row.rstrip() for row in screen.display]
    assert "watches" not in "".join(rows)
    assert "done" in rows
