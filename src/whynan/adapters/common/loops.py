"""The user's loops: when an iteration that may train begins and ends, and what the program asks of its gradients.

Read from the source: the gradients' name, what is computed from it, an `isfinite` of that, and a decision (`if`,
`cond`, `where`) that takes the answer. Such a program skips the step: bad gradients are no failure until an update
gets them.
"""

import ast
import linecache
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from types import FrameType
from typing import Any

from whynan.adapters.common.body import State
from whynan.adapters.common.positions import expression_of
from whynan.launch.host import COLD, PlainHost, is_user_file, set_site, tell
from whynan.launch.rewrite import LoopSite
from whynan.snapshot import find_loop, inner_breaks

LOSS = re.compile(
    r"(?<![a-z])(loss|losses|cost|costs|nll|mse|rmse|mae|sse|err|error|errors|objective|energy|elbo|history)(?![a-z])",
    re.IGNORECASE,
)
GAIN = re.compile(r"(?<![a-z])log_?lik(elihoods?)?(?![a-z])|perplexity|deviance|inertia|distortion", re.IGNORECASE)
"""What a fit is judged by where no loss is: -inf may be meant, for what can't be; NaN is not."""
UPDATES = re.compile(
    r"-=|\+=|posterior|responsib|\bresp\b|\b(?:e|m|em)_step\b|backward|grad|update|\.step\(|train_|\.train\(|\bsgd\b|adam|\blr\b|learning_rate"
    r"|\bfit|_fit\(|\bstep\(|apply_"
    r"|(?<![\w.])([\w.\[\]'\"]+)\s*=\s*(?:[\w.]*\()*\s*\1\s*[-+]"
)


class Site:
    """One loop that may train: `iter` begins an iteration, `wanted` are arrays to be copied (None: all)."""

    def __init__(self, site: LoopSite, loops: "Loops") -> None:
        self.site = site
        self.loops = loops
        self.n_passes = 0
        self.wanted: set[str] | None = None
        self.learned: set[str] = set()

    def __iter__(self) -> "Pass | Iterator[tuple[()]]":
        loops = self.loops
        if loops.active is not None or loops.is_replaying or loops.is_over():
            return iter(COLD)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not is_user_file(frame.f_code.co_filename):
            frame = frame.f_back
        return loops.begin(self, frame) if frame is not None else iter(COLD)


class Pass:
    """One iteration of a loop that may train. The loop itself holds it; when the loop is left it is gone."""

    __slots__ = ("__weakref__", "before", "frame", "owner", "started")

    def __init__(self, owner: Site, frame: FrameType, before: State) -> None:
        self.owner = owner
        self.frame = frame
        self.before = before
        self.started = False

    def __iter__(self) -> "Pass":
        return self

    def __next__(self) -> tuple[()]:
        if not self.started:
            self.started = True
            return ()
        self.owner.loops.end(self)
        raise StopIteration

    def __del__(self) -> None:
        # The loop was left by `break`, `return` or an exception.
        if self.owner.loops.active is self:
            self.owner.loops.active = None


class Loops(PlainHost):
    """Answers the rewritten loops. `on_end` is told of each iteration, with the exception that ended it if one did."""

    def __init__(
        self,
        is_over: Callable[[], bool],
        on_begin: Callable[[Pass], None],
        on_end: Callable[[Pass, BaseException | None], None],
        may_train: Callable[[LoopSite], bool],
        copies_arrays: bool,
    ) -> None:
        self.is_over = is_over
        self.on_begin = on_begin
        self.on_end = on_end
        self.may_train = may_train
        self.copies_arrays = copies_arrays
        self.active: Pass | None = None
        self.is_replaying = False

    def new_site(self, site: LoopSite) -> Any:
        return Site(site, self) if self.may_train(site) else COLD

    def failed(self, index: int) -> bool:
        """An exception leaves an iteration: it may come from what is not finite."""
        current = self.active
        if current is None or current.owner.site.index != index or self.is_replaying or self.is_over():
            return False
        self.active = None
        self.on_end(current, sys.exc_info()[1])
        return False

    def leave(self, value: Any = None) -> Any:
        """The body is about to be left: look at it as at its end."""
        current = self.active
        if current is None or self.is_replaying or self.is_over():
            return value
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not is_user_file(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is current.frame and frame.f_lineno not in inner_breaks(current.owner.site):
            self.end(current)
        return value

    def begin(self, owner: Site, frame: FrameType) -> Any:
        owner.n_passes += 1
        try:
            before = State(frame, owner.wanted if self.copies_arrays else set())
            self.active = Pass(owner, frame, before)
            self.on_begin(self.active)
            return self.active
        except Exception as error:
            tell("keeping the state of an iteration failed", error)
            set_site(owner.site.index, COLD)
            self.active = None
            return iter(COLD)

    def end(self, current: Pass) -> None:
        self.active = None
        if not self.is_over():
            self.on_end(current, None)


def speaks_of_training(site: LoopSite) -> bool:
    """Whether a loop's text speaks of a loss and of updates, and no loop inside of it does so as well."""
    return is_innermost(site, lambda text: bool(LOSS.search(text) or GAIN.search(text)) and bool(UPDATES.search(text)))


def is_innermost(site: LoopSite, speaks: Callable[[str], object]) -> bool:
    """Whether a loop's own text is such that `speaks` is true of it, and that of no loop inside of it is."""
    loop = find_loop(site)
    if loop is None:
        return False
    lines = linecache.getlines(site.filename)
    if not speaks("".join(lines[loop.body[0].lineno - 1 : site.body_last_line])):
        return False
    inner = [n for node in loop.body for n in ast.walk(node) if isinstance(n, (ast.For, ast.While))]
    return not any(speaks("".join(lines[n.body[0].lineno - 1 : n.end_lineno or n.lineno])) for n in inner)


@lru_cache(maxsize=64)
def calls_of_those_with(word: str, file: str) -> re.Pattern[str]:
    """Return a pattern that finds the calls of the file's own functions whose text has a word in it."""
    lines = linecache.getlines(file)
    try:
        functions = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        functions = []
    names = {f.name for f in functions if word in "".join(lines[f.lineno - 1 : f.end_lineno])}
    return re.compile(rf"(?<!def )\b({'|'.join(sorted(names))})\(" if names else r"(?!)")


def in_body(current: Pass) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not current.frame:
        frame = frame.f_back
    return frame is not None


_LOSS = re.compile(r"(?<![a-z])(loss|losses|cost|nll|objective|elbo)(?![a-z])", re.IGNORECASE)
_BEST = re.compile(r"best|lowest|min|prev|last", re.IGNORECASE)
"""A loss to compare with begins as an infinity."""


def speaks_of_loss(frame: FrameType) -> bool:
    """Return whether the frame's present line is the script's and speaks of a loss."""
    return is_user_file(frame.f_code.co_filename) and bool(_LOSS.search(_line(frame)))


def is_bad_loss(value: float, frame: FrameType) -> bool:
    """Return whether a number that the frame's present line reads is a loss that has gone wrong."""
    if math.isfinite(value) or not speaks_of_loss(frame) or _reads_another(frame):
        return False
    return math.isnan(value) or not _BEST.search(_line(frame))


def _reads_another(frame: FrameType) -> bool:
    """Whether what is read now is something else than the loss that the same line reads as well."""
    text = expression_of(frame.f_code, frame.f_lasti)
    if text is None or _LOSS.search(text):
        return False
    try:
        tree, this = ast.parse(_line(frame).strip()), ast.unparse(ast.parse(text))
    except SyntaxError:
        return False
    reads = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(_LOSS.search(read) and this not in read for read in reads)


def _line(frame: FrameType) -> str:
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)


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
