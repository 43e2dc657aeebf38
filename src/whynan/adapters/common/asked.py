"""Whether a program itself asks if its gradients are finite, and decides by it: a loss scale of its own making.

Read from the source: the gradients' name, what is computed from it, an `isfinite` of that, and a decision (`if`,
`cond`, `where`) that takes the answer. Such a program skips the step: bad gradients are no failure until an update
gets them.
"""

import ast
import linecache
from collections.abc import Callable, Iterable
from functools import lru_cache

_ASKS = {"isfinite", "isnan", "isinf", "is_finite", "is_nan", "is_inf", "all_finite", "tree_all_finite"}
_DECIDES = {"cond", "where", "select", "switch_case", "apply_if_finite"}


def decides_by_gradients(file: str, line: int, is_derivative: Callable[[ast.stmt], bool]) -> bool:
    """Whether the function around a line decides by what the result of its derivative is. `is_derivative` tells of an
    assignment that it takes gradients; of several targets the last one is the gradients."""
    scope, asks = _scope(file, line)
    if scope is None:
        return False
    assigns = [node for node in ast.walk(scope) if isinstance(node, (ast.Assign, ast.AugAssign))]
    gradients = {name for node in assigns if is_derivative(node) for name in _targets(node, True)}
    gradients = _followed(assigns, gradients, lambda value, known: bool(_names(value) & known))

    loops = [node for node in ast.walk(scope) if isinstance(node, (ast.comprehension, ast.For))]
    gradients |= {name for node in loops if _names(node.iter) & gradients for name in _names(node.target)}

    def asked(node: ast.AST, answers: set[str]) -> bool:
        calls = (n for n in ast.walk(node) if isinstance(n, ast.Call) and _called(n) in asks)
        return bool(_names(node) & answers) or any(_names(call) & gradients for call in calls)

    answers = _followed(assigns, set(), asked)
    for node in ast.walk(scope):
        decisions: Iterable[ast.AST] = ()
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            decisions = (node.test,)
        elif isinstance(node, ast.Call) and _called(node) in _DECIDES:
            decisions = node.args[:1]
        if any(asked(decision, answers) for decision in decisions):
            return True
    return False


def takes_gradients(node: ast.stmt) -> bool:
    """Whether a statement asks a tape for gradients."""
    return any(isinstance(n, ast.Call) and _called(n) == "gradient" for n in ast.walk(node))


@lru_cache(maxsize=64)
def _scope(file: str, line: int) -> tuple[ast.AST | None, frozenset[str]]:
    """Return the innermost function around a line, else the module, and the names of functions that ask."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None, frozenset()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asks = {f.name for f in functions if _ASKS & {_called(n) for n in ast.walk(f) if isinstance(n, ast.Call)}}
    around = [f for f in functions if _first_line(f) <= line <= (f.end_lineno or f.lineno)]
    return max(around, key=lambda f: f.lineno, default=tree), frozenset(asks | _ASKS)


def _first_line(function: ast.FunctionDef) -> int:
    return min([function.lineno, *(node.lineno for node in function.decorator_list)])


def _followed(
    assigns: list[ast.Assign | ast.AugAssign], start: set[str], is_made: Callable[[ast.AST, set[str]], bool]
) -> set[str]:
    known = set(start)
    while True:
        more = {name for node in assigns if is_made(node.value, known) for name in _targets(node, False)} - known
        if not more:
            return known
        known |= more


def _targets(node: ast.Assign | ast.AugAssign, only_last: bool) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    found: set[str] = set()
    for target in targets:
        found |= _names(target.elts[-1] if only_last and isinstance(target, ast.Tuple) else target)
    return found


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
