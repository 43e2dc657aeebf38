"""What a user sees first, held against golden files (WHYNAN_UPDATE_GOLDEN=1 writes them again)."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report.recordings import EVERYTHING, HOSTILE_TEXTS, ORIGIN, VARIANTS, hostile, recording

from whynan.report.saved import to_json_text
from whynan.report.terminal import render

GOLDEN = Path(__file__).parent / "golden"
SOURCE = "\n" * 55 + "    cos = a @ b\n    # the angle\n    angle = torch.acos(cos)\n    return angle.mean()\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text_of(recorded, file=None, **options) -> str:
    file = file or io.StringIO()
    render(json.loads(to_json_text(recorded.to_json())), file, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_golden(name):
    text = text_of(VARIANTS[name], out=Path("whynan-out"))
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("WHYNAN_UPDATE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


@pytest.mark.parametrize("columns", ["80", "110"])
def test_first_screen_answers_everything(tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "train.py").write_text(SOURCE)
    screen = "\n".join(text_of(VARIANTS["everything"], Terminal()).splitlines()[:24])
    for answer in (
        "loss is NaN at step 1417 (epoch 3)",
        "train.py:58 in rotation_loss",
        ">   58 | angle = torch.acos(cos)",
        "59 | return angle.mean()",
        "[domain-error]",
        "confirmed by experiment",
        "dataset index 9310 (row 17 of the batch)",
        "clamp(-1 + 1e-6, 1 - 1e-6)",
        "tried, did not help: learning rate / 10",
        "not tried: float64",
    ):
        assert answer in screen


def test_healthy_run_prints_nothing():
    assert text_of(VARIANTS["healthy"]) == ""
    assert text_of(VARIANTS["healthy-with-skips"]) == ""


def test_healthy_run_says_so_when_asked():
    assert "healthy: nothing non-finite was seen in 1417 steps" in text_of(VARIANTS["healthy"], is_asked=True)


def test_not_reproduced_is_said_first():
    lines = text_of(VARIANTS["not-reproduced"]).strip().splitlines()
    assert "Not reproduced" in lines[1]
    assert "confirmed by experiment" not in "\n".join(lines)


def test_rerun_command_is_given_where_nothing_could_be_replayed():
    assert "whynan run --rerun train.py --data 'my data'" in text_of(VARIANTS["almost-nothing"])


def test_edited_source_is_not_shown(tmp_path):
    (tmp_path / "train.py").write_text(SOURCE.replace("torch.acos(cos)", "torch.acos(cos * 2)"))
    text = text_of(VARIANTS["everything"])
    assert "cos * 2" not in text
    assert ">   58 | angle = torch.acos(cos)" in text


def test_drop_sample_does_not_confirm_a_cause():
    remedy = replace(EVERYTHING.remedies[0], slug="drop-sample")
    text = text_of(recording(replace(EVERYTHING, remedies=(remedy,))))
    assert "confirmed by experiment" not in text
    assert "measured in the replay" in text


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_does_not_act(text):
    shown = text_of(hostile(text))
    assert not set(shown) & set("\x1b\x07\x9b\r\u202e\u2028")
    shown.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_text_does_not_act_on_a_terminal(text):
    shown = text_of(hostile(text), Terminal())
    assert "\x1b[31mred" not in shown
    assert "\x07" not in shown


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_no_escape_codes_unless_on_a_terminal(name, monkeypatch):
    assert "\x1b" not in text_of(VARIANTS[name])
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in text_of(VARIANTS[name], Terminal())


def test_colour_on_a_terminal_and_none_with_no_color(monkeypatch):
    assert "\x1b[1;31m" in text_of(VARIANTS["everything"], Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in text_of(VARIANTS["everything"], Terminal())


@pytest.mark.parametrize("columns", [20, 60, 80, 300])
def test_prose_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    lines = text_of(VARIANTS["everything"], Terminal()).splitlines()
    prose = [line for line in lines if not line.startswith(("  origin", "loss is"))]
    assert max(map(len, prose)) <= max(40, min(columns, 112))


def test_long_recording_stays_short():
    assert len(text_of(VARIANTS["long-lines"]).splitlines()) < 50


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "gbk"])
@pytest.mark.parametrize("name", ["unicode", "long-lines"])
def test_any_encoding(name, encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding)
    render(VARIANTS[name].to_json(), file)
    assert b"loss is NaN" in raw.getvalue()


def test_broken_pipe_is_no_error():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    render(VARIANTS["everything"].to_json(), Broken())


def test_reader_that_leaves_does_not_end_the_process(tmp_path):
    (tmp_path / "report.json").write_text(to_json_text(VARIANTS["everything"].to_json()))
    code = (
        "import json, sys, time; from whynan.report.terminal import render; time.sleep(0.2)\n"
        "render(json.load(open('report.json')), sys.stderr); open('alive', 'w')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE)
    process.stderr.close()
    assert process.wait() == 0
    assert (tmp_path / "alive").exists()


def test_backward_origin_is_named_as_such():
    text = text_of(VARIANTS["no-source"])
    assert "backward of acos" in text
    assert "line not known" in text
    assert ORIGIN.op in text
