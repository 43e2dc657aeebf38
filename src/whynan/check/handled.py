"""What the script says itself: a step that has gone non-finite is left out (`if not torch.isfinite(loss): continue`), a
finding is accepted by `# whynan: ok REASON` at the end of its line, or on the line above it."""

import ast
import linecache
import re
from functools import cache

from whynan.check.context import Context
from whynan.check.graph import Asked, Node, Place

_TESTS = ("isfinite", "is_finite", "isnan", "isinf")
_WORDS = re.compile(r"\b(isfinite|isnan|isinf|nan_to_num|is_finite)\b")
_ENDS = re.compile(r"\b(raise|exit|_exit|quit|break|abort|assert|fail)\b")


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
