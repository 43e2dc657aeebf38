"""How values, places and findings are said in a report."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from whynan.records.op import short_dtype

_NAMES = {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}


def clean(text: object) -> str:
    """Return text on one line in which nothing acts: control, direction and lone surrogate characters are spelled out.

    File names, code and messages come from the user's world; a terminal must not obey an escape sequence in them.
    """
    return "".join(_visible(char) for char in str(text).expandtabs(4))


def clean_lines(text: object) -> tuple[str, ...]:
    return tuple(clean(line) for line in str(text).split("\n"))


def _visible(char: str) -> str:
    if char in "\n\r":
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char.encode("unicode_escape", "surrogatepass").decode("ascii")
    return char


def number(value: object) -> str:
    """Return a number as a reader wants it: NaN, Inf, 0.25, 1.0000001, 3.2e+08; anything else as clean text."""
    if is_nonfinite(value):
        return _NAMES[str(value)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return clean(value)
    # Nine digits tell every float32 apart: 1.0000001 must not become 1.
    text = f"{value:.9g}"
    return text if len(text) <= 12 else f"{value:.6g}"


def as_number(value: object) -> object:
    """Return the finite number that a text spells out, anything else as it is."""
    if not isinstance(value, str) or is_nonfinite(value):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def short_number(value: float) -> str:
    """Return a number in four digits, for an axis or an overview."""
    return number(value) if value in (float("inf"), float("-inf")) or value != value else f"{value:.4g}"


def is_nonfinite(value: object) -> bool:
    """Return whether a value of a report stands for NaN, +Inf or -Inf."""
    return isinstance(value, str) and value in _NAMES


def plural(n: int, noun: str) -> str:
    """Return "1 step", "2 steps", "0 batches"."""
    if n == 1:
        return f"1 {noun}"
    return f"{n} {noun}es" if noun.endswith(("s", "ch", "x")) else f"{n} {noun}s"


def place(item: Mapping[str, Any]) -> str | None:
    """Return "train.py:58", as editors and terminals recognise it; None where the file is not known."""
    if not item.get("file"):
        return None
    line = item.get("line")
    return clean(item["file"]) + (f":{line}" if line is not None else "")


def tensor(summary: Mapping[str, Any]) -> str:
    """Return "f32[64, 4]"."""
    return f"{short_dtype(clean(summary['dtype']))}[{', '.join(map(str, summary['shape']))}]"


def n_elements(summary: Mapping[str, Any]) -> int:
    n = 1
    for size in summary["shape"]:
        n *= size
    return n


def nonfinite_count(summary: Mapping[str, Any]) -> str:
    """Return "1 nan of 32", "2 nan, 3 inf of 64", "all 32 finite"."""
    kinds = (("nan", "nan"), ("posinf", "inf"), ("neginf", "-inf"))
    counts = [f"{summary[key]} {name}" for key, name in kinds if summary.get(key)]
    if not counts and summary.get("nonfinite"):
        counts = [f"{summary['nonfinite']} non-finite"]
    total = n_elements(summary)
    return f"{', '.join(counts)} of {total}" if counts else f"all {total} finite"


def value_range(summary: Mapping[str, Any]) -> str:
    """Return the measured facts of a tensor: "f32[8, 2] from 0 to 0.9, 3 zeros"."""
    facts = [tensor(summary)]
    if summary.get("min") is not None and summary.get("max") is not None:
        facts[0] += f" from {number(summary['min'])} to {number(summary['max'])}"
    if summary.get("zeros"):
        facts.append(plural(summary["zeros"], "zero"))
    if summary.get("nonfinite"):
        facts.append(nonfinite_count(summary))
    if summary.get("role") not in (None, "computed"):
        facts.append(" ".join(clean(summary[key]) for key in ("role", "name") if summary.get(key)))
    return ", ".join(facts)


Json = Mapping[str, Any]

_REMEDY_MARKS = {True: ("yes", "confirmed"), False: ("no", "tried, did not help"), None: ("untried", "not tried")}

_MEASURED_FROM = 0.9
_LIKELY_FROM = 0.5
_MAX_INPUTS = 3
_MAX_ELEMENTS = 4
_MAX_STEPS = 6


def run_headline(report: Json) -> str:
    """Return the headline of a run without an incident."""
    steps = plural(report["run"]["steps"], "step")
    if report["outcome"] == "diverging":
        return f"the run is diverging: finite in {steps}, but growing"
    if report["outcome"] == "script-error":
        return f"the script ended with an error of its own; nothing non-finite was seen in {steps}"
    if report["outcome"] == "non-finite":
        return f"something non-finite was seen in {steps}, and nothing more is known of it"
    return f"healthy: nothing non-finite was seen in {steps}"


def headline(incident: Json, outcome: str) -> str:
    """Return "loss is NaN at step 1417 (epoch 3)"."""
    unit = "validation batch" if incident["stage"] == "validation" else "step"
    origin = incident.get("origin") or {}
    if incident["symptom"]["what"] == "input" and origin.get("framework_op") == "guard":
        # A library has looked at the batch and would not have it: nothing was computed, and nothing is NaN yet.
        return f"the batch was refused for its {clean(incident['symptom']['name'])} at {unit} {incident['step']}"
    epoch = f" (epoch {incident['epoch']})" if incident.get("epoch") is not None else ""
    return f"{symptom(incident['symptom'], outcome)} at {unit} {incident['step']}{epoch}"


def answers(incident: Json, outcome: str) -> list[tuple[str, str, str]]:
    """Return what, where, why, which sample and what fixes it, each with its answer and how it was found."""
    origin = incident["origin"]
    rows = [("What", headline(incident, outcome), "")]
    if origin:
        at = place(origin) or "a line that is not known"
        function = f" in {clean(origin['function'])}" if origin.get("function") else ""
        rows.append(("Where", f"{operation(origin)} at {at}{function}", ""))
    else:
        rows.append(("Where", no_origin(incident), ""))
    causes = incident["causes"]
    rows.append(("Why", clean(causes[0]["title"]) if causes else "not known; no cause fits what was measured", ""))
    samples = incident["samples"]
    if samples:
        more = f", and {len(samples) - 1} more" if len(samples) > 1 else ""
        rows.append(("Which sample", sample({**samples[0], "why": ""}) + more, ""))
    else:
        rows.append(("Which sample", _no_sample(incident), ""))
    rows.append(("What fixes it", *_fix(incident)))
    return rows


def _no_sample(incident: Json) -> str:
    note = next((str(note) for note in incident.get("notes") or () if "no single sample" in str(note)), None)
    return clean(note) if note else "none was found to be guilty by itself"


def _fix(incident: Json) -> tuple[str, str]:
    remedies = incident["remedies"]
    if not remedies:
        return "nothing is proposed", ""
    # The sample's absence shows which one it was; what a reader wants first is the change to the program.
    best = next((r for r in remedies if r["proved"] and r["slug"] != "drop-sample"), remedies[0])
    state, _ = remedy_mark(best, incident["replay"])
    where = f" at {clean(best['where'])}" if best.get("where") else ""
    return f"{clean(best['title'])}{where}", state


def symptom(found: Json, outcome: str) -> str:
    """Return what the user sees: "loss is NaN", "gradient of fc.weight has NaN", "loss is diverging: 3.2e+08"."""
    value = number(as_number(found["value"]))
    subject = _subject(clean(found["what"]), clean(found["name"] or ""))
    if not is_nonfinite(found["value"]):
        return f"{subject} is diverging: {value}" if outcome == "diverging" else f"{subject} is {value}"
    return f"{subject} {'is' if found['what'] == 'loss' else 'has'} {value}"


def _subject(what: str, name: str) -> str:
    if name in ("", what):
        return what
    if what == "loss":
        return name if "loss" in name.lower() else f"loss {name}"
    return f"gradient of {name}" if what == "gradient" else f"{what} {name}"


def replay_warning(replay: Json) -> str | None:
    """Return what must be said first where the failing step did not fail again; None where it did."""
    if replay["reproduced"]:
        return None
    why = f" ({clean(replay['why'])})" if replay.get("why") else ""
    if replay["method"] == "none":
        return f"The step was not run again{why}: what follows was seen in the run itself, nothing was tested."
    method = clean(replay["method"])
    return f"Not reproduced: run again ({method}), the step came out different{why}; read the rest as likely at best."


def operation(op: Json) -> str:
    """Return an operation with its phase where that is not forward: "backward of sqrt"."""
    name = clean(op["op"])
    if name == op["phase"] == "data":
        return "the batch itself"
    return {
        "backward": f"backward of {name}",
        "optimizer": f"{name} in the optimizer",
        "data": f"{name} in the data",
    }.get(op["phase"], name)


def flow(origin: Json) -> str:
    """Return "f32[32] -> 1 nan of 32"."""
    inputs = [tensor(found) for found in origin["inputs"][:_MAX_INPUTS]]
    if len(origin["inputs"]) > _MAX_INPUTS:
        inputs.append("...")
    output = nonfinite_count(origin["output"]) if origin.get("output") else ""
    return " -> ".join(part for part in (", ".join(inputs), output) if part)


def elements(origin: Json) -> str | None:
    """Return where in the output the first non-finite elements are: "at [5, 1], [7, 1], ..."."""
    places = [place for place in origin.get("elements") or () if place]
    shown = [str(list(place)) for place in places[:_MAX_ELEMENTS]] + ["..."] * (len(places) > _MAX_ELEMENTS)
    return f"at {', '.join(shown)}" if shown else None


def remedy_mark(remedy: Json, replay: Json) -> tuple[str, str]:
    """Return what a trial of a remedy showed, as a state ("yes", "no", "untried") and in words."""
    if remedy["proved"] and not replay["reproduced"]:
        # Finite with the remedy says nothing where the step is finite without it.
        return "untried", "not proved"
    if remedy["proved"] is None and remedy.get("outcome"):
        return "untried", "tried, says nothing"
    return _REMEDY_MARKS[remedy["proved"]]


def no_origin(incident: Json) -> str:
    if not is_nonfinite(incident["symptom"]["value"]):
        return "no single operation: nothing is non-finite yet, the values grow from step to step"
    if not incident["replay"]["reproduced"]:
        return "not known: the failing step was not seen op by op"
    return "not known: no operation of the step made it from finite inputs"


def no_cause(incident: Json) -> str:
    """Return what is said in place of a cause: that it is not known, and what was measured."""
    origin = incident["origin"]
    measured = "; ".join(value_range(tensor) for tensor in origin["inputs"][:_MAX_INPUTS]) if origin else ""
    if not measured:
        return "not known; no cause fits what was measured"
    return f"not known; measured: {operation(origin)} got {measured}"


def how_known(cause: Json, incident: Json) -> str:
    """Return how the first cause is known, claiming no more than was measured and tried."""
    proof = next((r for r in incident["remedies"] if r["proved"] and r["slug"] != "drop-sample"), None)
    if proof and incident["replay"]["reproduced"]:
        return f"confirmed by experiment: the same step is finite after {clean(proof['slug'])}"
    if cause["confidence"] >= _MEASURED_FROM and incident["replay"]["reproduced"]:
        return "measured in the replay; not confirmed by an experiment"
    return likelihood(cause["confidence"])


def likelihood(confidence: float) -> str:
    """Return a confidence in a word and a number: "likely, 82%"."""
    return f"{'likely' if confidence >= _LIKELY_FROM else 'possible'}, {confidence:.0%}"


def sample(found: Json) -> str:
    """Return "dataset index 9310 (row 17 of the batch), img/a.png: without it the step is finite"."""
    row = f"row {found['position']} of the batch" if found.get("position") is not None else ""
    index = f"dataset index {found['index']}" if found.get("index") is not None else ""
    name = f"{index} ({row})" if index and row else index or row or "one sample of the batch"
    name += f", {clean(found['path'])}" if found.get("path") else ""
    return name + (f": {clean(found['why'])}" if found.get("why") else "")


def skipped(incidents: Sequence[Json]) -> str | None:
    if not incidents:
        return None
    steps = [str(item["step"]) for item in incidents]
    shown = ", ".join(steps[:_MAX_STEPS]) + (", ..." if len(steps) > _MAX_STEPS else "")
    return f"{plural(len(steps), 'non-finite step')} that the script skipped by itself: {shown}"


def script_error(report: Json) -> str | None:
    if not report.get("error"):
        return None
    lines = [line for line in str(report["error"]).strip().splitlines() if line.strip()]
    start = "the script then ended with " if report["incidents"] else ""
    return start + clean(lines[-1].strip()) if lines else None
