"""The page: whole, self-contained, and nothing in it acts."""

import base64
import hashlib
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from tests.report.recordings import EVERYTHING, HISTORY, HOSTILE_TEXTS, INF, NAN, VARIANTS, hostile, recording

from whynan.records import LookBack
from whynan.report import drawings
from whynan.report.chart import HEIGHT, WIDTH, draw
from whynan.report.html import render

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """The elements, attributes and text of a page; it fails where an element is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.script = [], [], [], "", ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.script += data
        elif "style" not in self.open:
            self.text += data


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_page_is_well_formed_and_self_contained(name):
    recorded = VARIANTS[name]
    page = Page(render(recorded.to_json(), HISTORY, files=recorded.files()))
    assert not {"img", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1
    for key, value in page.attributes:
        assert not key.startswith("on")
        assert "://" not in (value or "")
        assert key not in ("href", "src") or value.startswith(("#", "data:image/png;base64,"))
    assert "None" not in page.text


def test_the_only_script_is_the_one_that_the_policy_names():
    page = Page(render(VARIANTS["everything"].to_json()))
    policy = next(value for key, value in page.attributes if key == "content" and "script-src" in value)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_nothing_is_injected(text):
    recorded = hostile(text)
    written = render(recorded.to_json(), recorded.history, files=recorded.files())
    innocent = hostile("innocent")
    page, like = Page(written), Page(render(innocent.to_json(), innocent.history, files=innocent.files()))
    assert page.script == like.script
    tags = [tag for tag in page.tags if tag != "span"]
    assert tags == [tag for tag in like.tags if tag != "span"]
    assert not any(key.startswith("on") or key == "src" for key, _ in page.attributes)
    assert "49" not in page.text
    assert not set(written) & set("\x1b\x07\x9b\u202e")


def test_page_holds_what_matters():
    text = Page(render(VARIANTS["everything"].to_json(), HISTORY)).text
    for part in (
        "loss is NaN at step 1417 (epoch 3)",
        "train.py:58",
        "angle = torch.acos(cos)",
        "domain-error",
        "largest input 1.0000001",
        "dataset index 9310",
        "tried, did not help",
        "loss_box",
        "the file log.txt",
        "found by bisection",
        "gradient norm (logarithmic)",
        "train.py --data 'my data'",
        "proved: the same step is finite with it",
        "nothing: the step as it was",
        "no width: 0 x 4",
        "at the last step largest in model.backbone.0.convolution.of.many: 5; not finite in model.head",
        "loss_box 0.4",
    ):
        assert part in text


def test_the_control_is_the_first_row_of_what_was_tried():
    text = Page(render(VARIANTS["everything"].to_json())).text
    assert text.index("nothing: the step as it was") < text.index("the cosine clamped") < text.index("did not help")


def test_several_incidents_are_a_timeline_that_leads_to_each():
    page = Page(render(VARIANTS["several"].to_json()))
    assert "7 incidents" in page.text
    for number in range(1, 8):
        assert page.attributes.count(("href", f"#incident-{number}")) == 2
        assert ("id", f"incident-{number}") in page.attributes


def test_what_is_known_of_the_data_stands_in_the_page():
    finding = {"severity": "error", "check": "box-zero-size", "file": "<b>a</b>.xml", "message": "xmin = xmax"}
    data = {"schema": "whynan.data/1", "path": "voc", "counts": {"images": 3}, "findings": [finding] * 30}
    page = Page(render(VARIANTS["everything"].to_json(), data=data))
    assert "box-zero-size" in page.text
    assert "<b>a</b>.xml" in page.text
    assert "and 10 more" in page.text


def test_not_reproduced_stands_before_the_origin():
    text = Page(render(VARIANTS["not-reproduced"].to_json())).text
    assert text.index("Not reproduced") < text.index("Where it began")


@pytest.mark.parametrize(
    "values",
    [
        (1.0, 2.0, 3.0),
        (0.0, 0.0),
        (1e-300, 1e300),
        (5e-324, 1.7e308),
        (-1.7e308, 1.7e308),
        (1.7e308, 1.7e308),
        (NAN, NAN),
        (NAN, 1.0, INF, 2.0, -INF),
        tuple(float(n) for n in range(50_000)),
        tuple(NAN if n % 3 == 0 else float(n) for n in range(5_000)),
    ],
)
def test_chart_stays_in_its_frame(values):
    chart = draw("loss", values)
    points = [tuple(map(float, point.split(","))) for line in chart.lines for point in line.split()]
    points += chart.dots
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert all(0 <= tick.y <= HEIGHT for tick in chart.ticks)
    assert len(points) <= 1300 or NAN in values
    assert bool(chart.marks) == any(value != value or abs(value) == INF for value in values)


def test_incidents_are_marked_where_their_place_is_certain():
    values = [1.0] * 9 + [2.0]
    (mark,) = draw("loss", values, (4,), 10).incidents
    assert mark.label == "incident at step 4"
    # Of a run of 5000 steps ten values are kept: only its end has a place.
    assert draw("loss", values, (4,), 5000).incidents == ()
    (mark,) = draw("loss", values, (4999,), 5000).incidents
    assert mark.x == draw("loss", values).right


def test_the_step_that_left_no_value_has_its_place_behind_the_others():
    chart = draw("loss", [1.0, 2.0, 1.5], (3,), 3)
    (mark,) = chart.incidents
    assert mark.x == chart.right
    assert max(float(point.split(",")[0]) for point in chart.lines[0].split()) < chart.right
    assert (chart.first, chart.last) == ("step 0", "")  # its label stands there


def test_labels_of_the_axis_leave_room_for_the_incident():
    values = [float(n) for n in range(30)]
    assert [draw("loss", values, (1,), 30).first, draw("loss", values, (1,), 30).last] == ["", "step 29"]
    assert [draw("loss", values, (15,), 30).first, draw("loss", values, (15,), 30).last] == ["step 0", "step 29"]


def test_a_map_marks_the_failing_step_and_what_was_not_measured():
    drawn = drawings.draw_heat(
        "gradient norm", ["a", "b", "c"], [3, 4, 5], [[1.0, None, 2.0], [None] * 3, [1.0, 1.0, NAN]], 5
    )
    assert [row.full for row in drawn.rows] == ["a", "c"]
    assert drawn.unknown.count("M") == 1 and drawn.bad.count("M") == 1
    assert drawn.incident and drawn.last == "step 5, the incident"
    assert drawings.draw_heat("gradient norm", ["a"], [3, 4], [[1.0, 2.0]], 5).incident is None


def test_what_was_not_measured_is_told():
    report = VARIANTS["healthy"].to_json()
    assert "Not measured in this run: gradient norm, learning rate." in render(report, {"loss": (1.0, 2.0)})
    assert "Not measured" not in render(report, dict.fromkeys(("loss", "grad_norm", "lr"), (1.0, 2.0)))


def test_chart_keeps_a_single_peak():
    values = [1.0] * 10_000
    values[7_777] = 50.0
    heights = [float(point.split(",")[1]) for line in draw("loss", values).lines for point in line.split()]
    assert min(heights) < 20


def test_flat_series_is_told_in_words():
    assert draw("lr", (0.001,) * 9).is_flat
    assert draw("lr", (0.001,) * 9).summary == "0.001 throughout"


def test_chart_needs_two_values():
    assert draw("loss", ()) is None
    assert draw("loss", (1.0,)) is None


def test_many_incidents_with_maps_stay_a_small_page():
    shades = tuple(tuple(10.0 ** ((7 * k + 5 * step) % 24 / 3) for step in range(64)) for k in range(40))
    names = tuple(f"model.layer{k}.block.conv" for k in range(40))
    back = LookBack(tuple(range(64)), names, shades, shades, shades)
    written = render(recording(*[replace(EVERYTHING, look_back=back, pictures=())] * 24).to_json())
    assert len(written) < 1_500_000
    assert written.count("largest activation by layer</strong>") == 5
    assert "Maps by layer are drawn of the first 5 incidents." in written
