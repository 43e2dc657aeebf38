"""The report as Markdown: everything that matters, and any text as text."""

import re

import pytest
from tests.report.recordings import HOSTILE_TEXTS, VARIANTS, hostile

from whynan.report.markdown import render


def test_markdown_holds_what_matters():
    text = render(VARIANTS["everything"].to_json())
    for part in (
        "## loss is NaN at step 1417",
        "- **Where:** acos at train.py:58 in rotation\\_loss",
        "dataset index 9310",
        "(**proved**)",
        ">   58 | angle = torch.acos(cos)",
        "| nothing: the step as it was | failed |",
        "```diff\n",
        "+    angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))",
        "`train.py --data 'my data'`",
    ):
        assert part in text


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_report_has_a_headline_and_closed_blocks(name):
    text = render(VARIANTS[name].to_json())
    assert text.startswith("## ")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0
    assert "None" not in text


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "```\n# free", "a | b", "[x](javascript:1)"])
def test_any_text_stays_text(text):
    written = render(hostile(text).to_json())
    outside, fence = [], None
    for line in written.splitlines():
        match = re.match(r" *(`{3,})", line)
        if match and fence in (None, match.group(1)):
            fence = None if fence else match.group(1)
        elif fence is None:
            outside.append(re.sub(r"(`+).*?\1", "", line))
    assert fence is None
    for line in outside:
        assert not re.search(r"(?<!\\)<|(?<!\\)\[.*\]\(", line), line
