"""whynan explain: plain when piped, a page for each slug, status 2 and close matches for a wrong one."""

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner

from whynan.cli.explain import explain
from whynan.diagnosis import catalogue

SLUGS = [entry.slug for entry in (*catalogue.all_causes(), *catalogue.all_remedies())]


def test_overview_lists_everything() -> None:
    result = CliRunner().invoke(explain)
    assert result.exit_code == 0 and "\x1b" not in result.output
    assert [slug for slug in SLUGS if f"  {slug} " not in result.output] == []


@pytest.mark.parametrize("slug", SLUGS)
def test_page_holds_text_and_code(slug: str) -> None:
    result = CliRunner().invoke(explain, [slug])
    assert result.exit_code == 0 and "\x1b" not in result.output
    page = catalogue.page_of(catalogue.look_up(slug))
    shown = " ".join(result.output.split())
    assert " ".join(page.text.split()) in shown
    for code in (page.sections.get("Bad"), page.sections.get("Good"), page.sections.get("Code")):
        assert code is None or " ".join(code.split()) in shown
    assert all(len(line) <= 100 and line == line.rstrip() for line in result.output.splitlines())


def test_wrong_slug_gives_close_ones() -> None:
    result = CliRunner().invoke(explain, ["log-zero"])
    assert result.exit_code == 2
    assert "log-of-zero" in result.output and "Traceback" not in result.output


def test_colour_is_for_terminals_only() -> None:
    command = [sys.executable, "-m", "whynan", "explain", "log-of-zero"]
    environment = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    piped = subprocess.run(command, capture_output=True, env=environment, check=True).stdout
    assert b"\x1b" not in piped and b"log-of-zero" in piped
    master, slave = pty.openpty()
    environment.pop("FORCE_COLOR")
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 65536):
                shown += part
        except OSError:
            pass
    os.close(master)
    assert process.returncode == 0 and b"\x1b[" in shown
