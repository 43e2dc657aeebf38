"""whynan report, and the line that says what is being done."""

import io

import pytest
from click.testing import CliRunner
from tests.report.recordings import VARIANTS

from whynan.cli.run import report
from whynan.report import Progress
from whynan.report.saved import save


def test_renders_again(tmp_path):
    save(VARIANTS["everything"], tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert result.exit_code == 0
    assert result.output.startswith("loss is NaN at step 1417 (epoch 3)\n")
    assert (tmp_path / "report.html").read_bytes() == page


@pytest.mark.parametrize("name", ["", "nowhere", "file"])
def test_bad_folder_is_exit_status_2(tmp_path, name):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(report, [str(tmp_path / name)])
    assert result.exit_code == 2
    assert "report.json" in result.output


def test_open(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    save(VARIANTS["healthy"], tmp_path)
    assert CliRunner().invoke(report, [str(tmp_path), "--open"]).exit_code == 0
    assert opened == [(tmp_path / "report.html").as_uri()]


def test_progress_is_one_plain_line_for_each_stage():
    file = io.StringIO()
    with Progress(file) as progress:
        progress.stage("replaying step 811")
        progress.stage("testing remedies", "1 of 2")
        progress.stage("testing remedies", "2 of 2")
    assert file.getvalue() == "whynan: replaying step 811 ...\nwhynan: testing remedies ...\n"


def test_progress_on_a_terminal_takes_its_line_away(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    with Progress(file) as progress:
        progress.stage("testing remedies", "1 of 2")
    assert file.getvalue() == "\nwhynan: testing remedies 1 of 2 ...\r\x1b[2K"


def test_progress_without_a_stream(monkeypatch):
    monkeypatch.setattr("sys.__stderr__", None)
    with Progress() as progress:
        progress.stage("replaying")
