"""Operations that what ranges allow could make non-finite, less those that the script handles, and all of a check's
result as data: check.json.

A finding is accepted by `# whynan: ok REASON` at the end of its line, or on the line above it.
"""

import ast
import linecache
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from whynan.check.context import Context
from whynan.check.graph import Asked, Node, Place, Range
from whynan.check.hazards import EVERY, FINDERS, Hazard, load
from whynan.check.witness import Witness

_TESTS = ("isfinite", "is_finite", "isnan", "isinf")
_WORDS = re.compile(r"\b(isfinite|isnan|isinf|nan_to_num|is_finite)\b")
_ENDS = re.compile(r"\b(raise|exit|_exit|quit|break|abort|assert|fail)\b")


Severity = Literal["error", "warning", "note"]


def handled_at(node: Node, phase: str, context: Context) -> Place | None:
    """Return the line that leaves the step out where this node, or its derivative, has made the loss non-finite.

    A question whose answer ends the run is none. A loss that is asked about says nothing of the derivatives; a norm of
    the gradients does.
    """
    graph = context.graph
    for asked in graph.asked:
        if asked.place is None or asked.before <= node.index or not _asks_for_finite(asked, context):
            continue
        above = graph.ancestors(asked.node)
        is_of_gradients = any(graph.nodes[i].attrs.get("is_gradient") for i in above)
        if not is_of_gradients and (phase != "forward" or node.index not in above):
            continue
        if _leaves_out(asked.place.file, asked.place.line):
            return asked.place
    return None


def _asks_for_finite(asked: Asked, context: Context) -> bool:
    """Whether the number that was read is a matter of being finite: by its operations, or by the words around it."""
    node = context.node(asked.node)
    for _ in range(6):
        if node.op in _TESTS or (node.op == "ne" and len(set(node.inputs)) == 1):
            return True
        if not node.inputs:
            break
        node = context.node(node.inputs[0])
    return asked.place is not None and bool(_WORDS.search(asked.place.code))


@cache
def _leaves_out(file: str, line: int) -> bool:
    """Whether the `if` at a line goes on with the next step on either side."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return False
    found = None
    for statement in ast.walk(tree):
        if isinstance(statement, ast.If) and statement.lineno <= line <= (statement.test.end_lineno or line):
            found = statement
    if found is None:
        return False
    lines = linecache.getlines(file)
    text = "".join(lines[found.body[0].lineno - 1 : found.body[-1].end_lineno])
    return _ENDS.search(text) is None


_COMMENT = re.compile(r"#\s*whynan:\s*ok\b[\s:,-]*(.*)$", re.IGNORECASE)
NO_REASON = "no reason given"


def accepted_reason(file: str, line: int) -> str | None:
    """Return the reason that a comment gives for accepting findings of a line; None where there is no such comment."""
    for number in (line, line - 1):
        text = linecache.getline(file, number)
        found = _COMMENT.search(text)
        if found is not None and (number == line or text.lstrip().startswith("#")):
            return found.group(1).strip() or NO_REASON
    return None


SELECTING = {"where": (1, 2), "select_n": (1, 2), "masked_fill": (0,), "masked_fill_": (0,)}
_GUARDED = ("empty", "constant")


@dataclass(frozen=True)
class Suspect:
    """An operation that may go non-finite, with the best of what is known about how."""

    op: str
    phase: str
    place: Place
    cause: str
    remedies: tuple[str, ...]
    why: str
    operand: Range
    dtype: str
    hazard: Hazard
    module: str | None = None
    witness: Witness | None = None
    also: tuple[str, ...] = field(default=())
    is_in_library: bool = False
    """Whether the operation is that of an installed library which the user's line calls."""
    accepted: str | None = None
    """The reason that a comment on the line gives for accepting it."""
    handled: Place | None = None
    """The line on which the script leaves out a step that this has made non-finite."""

    @property
    def certainty(self) -> float:
        return self.hazard.certainty

    @property
    def has_witness(self) -> bool:
        return self.witness is not None and self.witness.found

    @property
    def is_certain(self) -> bool:
        """Whether it fails, on data like those seen, and the script does nothing about it."""
        return self.has_witness and self.handled is None

    def to_json(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "op": self.op,
            "phase": self.phase,
            "file": self.place.file,
            "line": self.place.line,
            "function": self.place.function,
            "code": self.place.code,
            "module": self.module,
            "range": {"input": [number(self.operand.lo), number(self.operand.hi)], "dtype": self.dtype},
            "why": self.why,
            "witness": self.has_witness,
            "search": self.witness.to_json() if self.witness is not None else None,
            "cause": self.cause,
            "also": list(self.also),
            "remedies": list(self.remedies),
            "rank": rank,
        }
        if self.handled is not None:
            found["handled"] = {"file": self.handled.file, "line": self.handled.line, "code": self.handled.code}
        if self.accepted is not None:
            found["accepted"] = self.accepted
        return found


def find_suspects(context: Context) -> list[Suspect]:
    """Return every suspect of an analysed graph, the likeliest first."""
    load()
    graph = context.graph
    relevant = graph.relevant()
    consumers = _consumers(graph.nodes)
    found: list[Suspect] = []
    for node in graph.nodes:
        is_memory = bool(node.attrs.get("uninitialized"))
        if (node.index not in relevant and not is_memory) or node.place is None:
            continue
        ins = [context.values[i] for i in node.inputs]
        out = context.values[node.index]
        # In place it is the same function.
        finders = FINDERS.get(node.op) or FINDERS.get(node.op.rstrip("_"), [])
        for finder in (*finders, *EVERY):
            try:
                hazards = list(finder(node, ins, out, context))
            except (ArithmeticError, ValueError, IndexError, TypeError, KeyError):
                continue
            for hazard in hazards:
                is_guardable = hazard.goal in _GUARDED or node.attrs.get("library")
                if is_guardable and is_asked_first(node, hazard, context):
                    continue
                if (
                    hazard.cause == "division-by-zero"
                    and ins[hazard.operand].integer
                    and is_asked_first(node, hazard, context)
                ):
                    continue
                found.append(_suspect(node, hazard, ins, out, context, consumers))
    return merged(found)


def _suspect(
    node: Node, hazard: Hazard, ins: Sequence[Range], out: Range, context: Context, consumers: dict[int, list[int]]
) -> Suspect:
    if (
        hazard.phase == "forward"
        and out.grad
        and node.phase == "forward"
        and is_selected_away(node, context, consumers)
    ):
        hazard = replace(
            hazard,
            cause="where-gradient-trap",
            phase="backward",
            remedies=("double-where",),
            why=f"{hazard.why}; `where` leaves that value out, but its derivative is multiplied by 0, and 0 * inf is "
            "NaN",
        )
    elif hazard.cause == "sqrt-at-zero" and is_selected_away(node, context, consumers):
        hazard = replace(hazard, remedies=("double-where", *hazard.remedies))
    cause = "custom-backward" if node.custom is not None else hazard.cause
    remedies = ("fix-custom-op", *hazard.remedies) if node.custom is not None else hazard.remedies
    operand = ins[hazard.operand] if hazard.operand < len(ins) else out
    assert node.place is not None
    return Suspect(
        node.op.rstrip("_") or node.op,
        hazard.phase,
        node.place,
        cause,
        remedies,
        hazard.why,
        operand,
        node.dtype,
        hazard,
        node.module,
        also=(hazard.cause,) if cause != hazard.cause else (),
        is_in_library=bool(node.attrs.get("library")),
        handled=handled_at(node, hazard.phase, context),
    )


def _consumers(nodes: Sequence[Node]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for node in nodes:
        for index in node.inputs:
            found.setdefault(index, []).append(node.index)
    return found


def is_selected_away(node: Node, context: Context, consumers: dict[int, list[int]]) -> bool:
    """Whether every way from a node leads into a branch of a selection whose condition varies, a few operations on."""
    front, seen, ends = [node.index], {node.index}, 0
    for _ in range(7):
        following = []
        for index in front:
            users = consumers.get(index, [])
            if not users and index in context.graph.roots:
                return False
            for user in users:
                other = context.node(user)
                branches = SELECTING.get(other.op)
                if branches is not None and any(other.inputs[b] == index for b in branches if b < len(other.inputs)):
                    ends += 1
                elif user not in seen:
                    if other.shape == () and node.shape != ():
                        return False
                    seen.add(user)
                    following.append(user)
        front = following
        if not front:
            return ends > 0
    return False


def is_asked_first(node: Node, hazard: Hazard, context: Context) -> bool:
    """Whether the program read a number made from the same data and decided by it, before this node was made."""
    graph = context.graph
    wanted = {
        i
        for i in graph.ancestors(node.inputs[hazard.operand])
        if graph.nodes[i].kind == "data" or graph.nodes[i].dtype == "bool"
    }
    for asked in graph.asked:
        if asked.before > node.index or asked.place is None:
            continue
        words = asked.place.code.replace("(", " ").split()
        if not {"if", "elif", "while", "assert"} & set(words):
            continue
        if wanted & graph.ancestors(asked.node):
            return True
    return False


def merged(suspects: Iterable[Suspect]) -> list[Suspect]:
    best: dict[tuple[str, int], Suspect] = {}
    for suspect in suspects:
        key = (suspect.place.file, suspect.place.line)
        other = best.get(key)
        if other is None:
            best[key] = suspect
            continue
        first, second = (suspect, other) if _worse(suspect, other) else (other, suspect)
        causes = {first.cause, *first.also}
        if first.hazard.node < 0 <= second.hazard.node and first.op == second.op:
            # What was measured to happen, and the ranges' reason for it.
            first = replace(second, witness=first.witness)
            causes = {first.cause, *first.also}
        extra = tuple(c for c in (second.cause, *second.also) if c not in causes)
        best[key] = replace(first, also=(*first.also, *extra))
    return ranked(best.values())


def _worse(a: Suspect, b: Suspect) -> bool:
    return (a.has_witness, a.certainty) > (b.has_witness, b.certainty)


def ranked(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Sort: those with a witness first, those that the script handles last, then by how often their kind is real."""
    return sorted(
        suspects, key=lambda s: (not s.is_certain, s.handled is not None, -s.certainty, s.place.file, s.place.line)
    )


@dataclass(frozen=True)
class Finding:
    check: str
    severity: Severity
    message: str
    line: int | None = None
    file: str | None = None
    value: str | None = None
    cause: str | None = None
    accepted: str | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "check": self.check,
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "value": self.value,
            "cause": self.cause,
        }
        if self.accepted is not None:
            found["accepted"] = self.accepted
        return found


@dataclass
class CheckResult:
    script: str
    steps: int = 0
    seconds: float = 0.0
    framework: str | None = None
    suspects: list[Suspect] = field(default_factory=list)
    review: list[Finding] = field(default_factory=list)
    n_nodes: int = 0
    problem: str | None = None
    """Why there is nothing to judge, where there is not."""
    notes: list[str] = field(default_factory=list)

    @property
    def standing(self) -> list[Suspect]:
        return [s for s in self.suspects if s.accepted is None]

    @property
    def has_errors(self) -> bool:
        """Whether a suspect with a witness that the script does not handle, or an error of the review, stands."""
        return any(s.is_certain for s in self.standing) or any(
            f.severity == "error" and f.accepted is None for f in self.review
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "whynan.check/1",
            "script": self.script,
            "framework": self.framework,
            "steps": self.steps,
            "seconds": round(self.seconds, 2),
            "operations": self.n_nodes,
            "problem": self.problem,
            "notes": self.notes,
            "suspects": [s.to_json(rank) for rank, s in enumerate(self.suspects, 1)],
            "review": [f.to_json() for f in self.review],
        }


def number(x: float) -> float | str:
    """Return a number as JSON can hold it."""
    if math.isnan(x):
        return "nan"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    return x
