"""Whole files or none, and nothing else."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
from tests.report.recordings import HISTORY, HOSTILE_TEXTS, NAN, VARIANTS, hostile, recording

from whynan.errors import OutputError, ReportError
from whynan.records import LossTerm
from whynan.report import html
from whynan.report.saved import load, load_history, read_npz, read_pictures, save, save_page, to_npz
from whynan.report.schema import KEYWORDS, find_fault, schema

EVERYTHING = VARIANTS["everything"]
ALL = {**VARIANTS, **{f"hostile-{n}": hostile(text) for n, text in enumerate(HOSTILE_TEXTS)}}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_report_is_valid_and_read_again(name, tmp_path):
    out = tmp_path / "a" / "b"
    save(ALL[name], out)
    report = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert load(out) == report
    expected = {"report.json", "report.html", *ALL[name].files()} | ({"history.npz"} if ALL[name].history else set())
    assert set(os.listdir(out)) == expected


def test_pictures_lie_beside_the_report_and_are_read_again(tmp_path):
    save(EVERYTHING, tmp_path)
    report = load(tmp_path)
    assert read_pictures(report, tmp_path) == EVERYTHING.files()
    first = (tmp_path / "report.html").read_text()
    save_page(report, load_history(report, tmp_path), tmp_path)
    assert (tmp_path / "report.html").read_text() == first
    assert "data:image/png;base64," in first
    # Those of the report before are gone with it.
    save(VARIANTS["healthy"], tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_a_picture_elsewhere_is_never_read(tmp_path):
    save(EVERYTHING, tmp_path / "out")
    report = load(tmp_path / "out")
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (tmp_path / "out" / "text.png").write_text("no picture")
    report["incidents"][0]["pictures"][0] |= {"file": "../secret.png", "overlay": "text.png"}
    assert read_pictures(report, tmp_path / "out") == {}


def test_history_is_read_by_numpy(tmp_path):
    save(EVERYTHING, tmp_path)
    with np.load(tmp_path / "history.npz", allow_pickle=False) as series:
        assert set(series) == set(HISTORY)
        for name, values in HISTORY.items():
            assert series[name].dtype == np.float64
            np.testing.assert_array_equal(series[name], values)


@pytest.mark.parametrize("n", [0, 1, 7, 100_000])
def test_history_round_trip(tmp_path, n):
    values = np.random.default_rng(0).standard_normal(n)
    (tmp_path / "x.npz").write_bytes(to_npz({"loss": values}))
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz", allow_pickle=False)["loss"], values)
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz")["loss"], values)


def test_unknown_fields_of_a_later_version_are_accepted(tmp_path):
    save(EVERYTHING, tmp_path)
    report = load(tmp_path)
    report["later"] = report["incidents"][0]["origin"]["later"] = {"a": 1}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert load(tmp_path)["later"] == {"a": 1}


def test_framework_scalars_are_numbers(tmp_path):
    incident = EVERYTHING.incidents[0]
    terms = (LossTerm("x", np.float32("nan")), LossTerm("y", np.float32(2.5)))
    save(recording(replace(incident, loss_terms=terms)), tmp_path)
    assert [term["value"] for term in load(tmp_path)["incidents"][0]["loss_terms"]] == ["nan", 2.5]


def test_source_is_kept_in_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("\n" * 57 + "    angle = torch.acos(cos)\n    return angle\n")
    save(EVERYTHING, tmp_path / "out")
    (tmp_path / "train.py").unlink()
    assert "return angle" in html.render(load(tmp_path / "out"))


def test_source_is_found_though_the_script_has_moved(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("\n" * 57 + "    angle = torch.acos(cos)\n    return angle\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    save(EVERYTHING, tmp_path / "out", roots=(tmp_path,))
    assert "return angle" in (tmp_path / "out" / "report.json").read_text()


def test_failing_replace_leaves_the_old_report_whole(tmp_path, monkeypatch):
    save(VARIANTS["healthy"], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"report\.json: No space left on device"):
        save(EVERYTHING, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(EVERYTHING, tmp_path)
    assert os.listdir(tmp_path) == []


def test_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match=r"out: .*--out"):
        save(EVERYTHING, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_failing_page_does_not_lose_the_report(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("of an earlier run")

    def fail(*_):
        raise ZeroDivisionError("template")

    monkeypatch.setattr(html, "render", fail)
    with pytest.raises(OutputError, match=r"report\.html: ZeroDivisionError: template"):
        save(EVERYTHING, tmp_path)
    assert load(tmp_path)["outcome"] == "non-finite"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "format None"),
        ('{"schema": "whynan.report/2"}', "use the whynan that wrote it"),
        ('{"schema": "else"}', "is it a report"),
        ('{"schema": "whynan.report/1"}', "not a whole report: whynan is missing"),
    ],
)
def test_bad_report_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(ReportError, match=message):
        load(tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="not JSON"):
        load(tmp_path)


def test_broken_or_missing_history_is_left_out(tmp_path):
    save(EVERYTHING, tmp_path)
    report = load(tmp_path)
    assert load_history(report, tmp_path)["lr"] == HISTORY["lr"]
    (tmp_path / "history.npz").write_bytes(b"PK\x03\x04 nonsense")
    assert load_history(report, tmp_path) == {}
    np.savez(tmp_path / "history.npz", loss=np.array([object()], dtype=object))
    assert load_history(report, tmp_path) == {}
    (tmp_path / "history.npz").unlink()
    assert load_history(report, tmp_path) == {}


def _mutations(report):
    incident = report["incidents"][0]
    yield lambda: incident.update(step="x")
    yield lambda: incident.update(stage="test")
    yield lambda: incident["replay"].pop("method")
    yield lambda: incident["origin"].update(line=True)
    yield lambda: incident["origin"]["inputs"][0].update(min="small")
    yield lambda: incident["causes"][0].update(confidence=1.5)
    yield lambda: incident["path"][0].update(value="fine")
    yield lambda: report.update(incidents={})
    yield lambda: report["run"]["versions"].update(torch=2)
    yield lambda: report.update(history=[])


@pytest.mark.parametrize("number", range(10))
def test_our_check_agrees_with_jsonschema(tmp_path, number):
    save(EVERYTHING, tmp_path)
    report = load(tmp_path)
    assert find_fault(report, schema()) is None
    list(_mutations(report))[number]()
    assert find_fault(report, schema())
    assert not jsonschema.Draft202012Validator(schema()).is_valid(report)


def test_schema_is_a_schema_and_uses_only_what_our_check_knows():
    jsonschema.Draft202012Validator.check_schema(schema())

    def keywords(part):
        yield from part
        for key in ("properties", "$defs"):
            for child in part.get(key, {}).values():
                yield from keywords(child)
        for child in (part.get("items"), part.get("additionalProperties"), *part.get("anyOf", ())):
            yield from keywords(child) if child else ()

    assert set(keywords(schema())) <= KEYWORDS


def test_nan_survives(tmp_path):
    save(recording(history={"loss": (NAN,)}), tmp_path)
    assert load_history(load(tmp_path), tmp_path)["loss"][0] != 0


def test_nothing_heavy_is_imported():
    code = (
        "import sys, whynan.report.saved, whynan.report.html, whynan.report.terminal, whynan.report.saved\n"
        "sys.exit(bool({'numpy', 'torch', 'jsonschema'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
