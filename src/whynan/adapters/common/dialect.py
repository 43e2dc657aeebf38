"""The user's line with one remedy in it, in the words of the library that the line speaks: tf, jnp, np, keras.ops.

A change is made to the file's text at the place of the expression, so that it may span lines; line numbers stay.
"""

import ast
import linecache
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from whynan.diagnosis import facts
from whynan.records import Evidence

_LOGS = ("log", "log2", "log10")
_ROOTS = ("sqrt", "rsqrt")
_NORMS = ("norm",)
_ARCS = ("acos", "asin", "arccos", "arcsin", "atanh", "arctanh")
_INFINITY = re.compile(
    r"""-\s*(?:\w+\.)*(?:inf|infinity|Inf)\b|float\(\s*["']-inf(?:inity)?["']\s*\)|-\s*float\(\s*["']inf["']\s*\)"""
)


@dataclass(frozen=True)
class Change:
    """A file's source with one change, the changed text and where it begins."""

    file: str
    line: int
    source: str
    new: str
    words: str


def changes_for(slug: str, evidence: Evidence, file: str, line: int) -> list[Change]:
    """Return the ways in which a remedy may change the line, best first; none where none fits."""
    text = "".join(linecache.getlines(file))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    maker = _MAKERS.get(slug)
    if maker is None:
        return []
    around = _Place(file, text, tree, line)
    found = []
    for node, new, words in maker(evidence, around):
        change = around.replaced(node, new, words)
        if change is not None:
            found.append(change)
    return found


class _Place:
    """A statement of a file, by a line of it."""

    def __init__(self, file: str, text: str, tree: ast.Module, line: int) -> None:
        self.file, self.text, self.tree, self.line = file, text, tree, line
        self.lines = text.encode().splitlines(keepends=True)
        covering = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and not hasattr(n, "body")
                    and n.lineno <= line <= (n.end_lineno or n.lineno)]  # fmt: skip
        self.statement: ast.AST | None = covering[0] if covering else None
        self.library = self._library()
        self.is_mindspore = bool(re.search(r"^\s*(import|from) mindspore\b", text, re.MULTILINE))

    def _library(self) -> str:
        """Return the name by which the file knows its library: tf, jnp, np or ops."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names.update({alias.name: alias.asname or alias.name for alias in node.names})
            elif isinstance(node, ast.ImportFrom):
                names.update({f"{node.module}.{alias.name}": alias.asname or alias.name for alias in node.names})
        own = ast.unparse(self.statement) if self.statement is not None else ""
        known = ("tensorflow", "jax.numpy", "keras.ops", "mindspore.ops", "mindspore.mint", "numpy")
        present = [names[k] for k in known if k in names]
        used = [n for n in present if re.search(rf"\b{re.escape(n)}\.", own)]
        return (used or present or ["np"])[0]

    def calls(self, *names: str) -> Iterator[ast.Call]:
        for node in ast.walk(self.statement) if self.statement is not None else ():
            if (
                isinstance(node, ast.Call)
                and _name(node) in names
                and (node.args or isinstance(node.func, ast.Attribute))
            ):
                yield node

    def nodes(self, kind: type) -> Iterator[ast.AST]:
        for node in ast.walk(self.statement) if self.statement is not None else ():
            if isinstance(node, kind):
                yield node

    def text_of(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text, node) or ast.unparse(node)

    def replaced(self, node: ast.expr, new: str, words: str) -> Change | None:
        """Return the file with an expression replaced by one that spans as many lines."""
        first, last = node.lineno, node.end_lineno or node.lineno
        start = sum(len(part) for part in self.lines[: first - 1]) + node.col_offset
        end = sum(len(part) for part in self.lines[: last - 1]) + (node.end_col_offset or 0)
        data = self.text.encode()
        padding = "\n" * max((last - first) - new.count("\n"), 0)
        # A line break is allowed inside brackets only: what spanned lines stood in some, or gets its own.
        body = f"({new}{padding})" if padding else new
        source = (data[:start] + body.encode() + data[end:]).decode()
        try:
            ast.parse(source)
        except (SyntaxError, ValueError):
            return None
        changed = source.splitlines()[first - 1].strip()
        return Change(self.file, first, source, changed, words)


Made = Iterator[tuple[ast.expr, str, str]]


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _argument(call: ast.Call) -> ast.expr | None:
    """Return what the function is applied to: its first argument, or the array whose method it is."""
    return call.args[0] if call.args else None


def _bracketed(text: str) -> str:
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return f"({text})"
    simple = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Constant))
    return text if simple else f"({text})"


def _each(place: _Place, names: tuple[str, ...], new: Callable[[str], str], words: str) -> Made:
    for call in place.calls(*names):
        argument = _argument(call)
        if argument is not None and not isinstance(argument, ast.Starred):
            yield argument, new(place.text_of(argument)), words


def clamp_or_eps(evidence: Evidence, place: _Place) -> Made:
    op, dtype, lib = facts.op_of(evidence), facts.dtype_of(evidence), place.library
    half = dtype == "float16"
    small, tiny = ("1e-4", "1e-4") if half else ("1e-7", "1e-12")
    if op in _LOGS or op in ("log1p", "xlogy"):
        yield from _each(
            place, _LOGS, lambda x: f"{lib}.maximum({x}, {small})", f"at least {small} under the logarithm"
        )
    if op == "exp":
        limit = "10.0" if half else "60.0"
        yield from _each(place, ("exp", "expm1"), lambda x: f"{lib}.minimum({x}, {limit})", f"at most {limit} in exp")
    if op in _ROOTS:
        yield from _each(place, _ROOTS, lambda x: f"{lib}.maximum({x}, {tiny})", f"at least {tiny} under the root")
        yield from _each(place, _ROOTS, lambda x: f"{x} + {tiny}", f"{tiny} added under the root")
    if op == "norm":
        yield from _norms(place, tiny)
    if op == "pow":
        if any(tensor.n_negative for tensor in facts.inputs(evidence)[:1]):
            for base in _bases(place):
                yield base, f"{lib}.maximum({place.text_of(base)}, {tiny})", f"a base of at least {tiny}"
        for base in _bases(place):
            yield base, f"({place.text_of(base)} + {tiny})", f"{tiny} added to the base"
    if op in _ARCS or op in ("acos", "asin", "atanh"):
        yield from _each(place, _ARCS, lambda x: f"{_clip(lib)}({x}, -1 + 1e-6, 1 - 1e-6)", "clamped inside the domain")
    if op in ("std", "var"):
        for call in place.calls("std", "reduce_std"):
            yield call, f"({place.text_of(call)} + 1e-6)", "1e-6 added to the spread"
    eps = "1e-4" if half else "1e-8"
    for node in _divisions(place) if op in ("div", "reciprocal", "std", "norm", "sqrt", "mean") else ():
        right = place.text_of(node.right)
        yield node.right, f"({right} + {eps})", f"{eps} added to the divisor"
        yield node.right, f"{lib}.maximum({right}, {eps})", f"a divisor of at least {eps}"


def _bases(place: _Place) -> Iterator[ast.expr]:
    for node in place.nodes(ast.BinOp):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            yield node.left
    for call in place.calls("pow", "power"):
        yield from call.args[:1]


def _divisions(place: _Place) -> Iterator[ast.BinOp]:
    for node in place.nodes(ast.BinOp):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and not isinstance(node.right, ast.Constant):
            yield node


def _clip(lib: str) -> str:
    return f"{lib}.clip_by_value" if lib == "tf" else f"{lib}.clip"


def _norms(place: _Place, tiny: str) -> Made:
    lib = place.library
    total = "reduce_sum" if lib == "tf" else "sum"
    for call in place.calls("norm"):
        argument = _argument(call)
        if argument is None or any(k.arg == "ord" for k in call.keywords):
            continue
        rest = "".join(f", {ast.unparse(keyword)}" for keyword in call.keywords)
        x = _bracketed(place.text_of(argument))
        yield call, f"{lib}.sqrt({lib}.{total}({x} ** 2{rest}) + {tiny})", f"{tiny} added under the root of the norm"


def double_where(evidence: Evidence, place: _Place) -> Made:
    """Put a harmless number where the argument is bad, before the function."""
    op, lib = facts.op_of(evidence), place.library
    if op in _LOGS or op in _ROOTS or op == "log1p":
        yield from _each(place, (*_LOGS, *_ROOTS), lambda x: f"{lib}.where({x} > 0, {x}, {_ones(lib, x)})",
                         "a harmless argument where it is 0")  # fmt: skip
    if op == "norm":
        total = "reduce_sum" if lib == "tf" else "sum"
        for call in place.calls("norm"):
            argument = _argument(call)
            if argument is not None and not any(k.arg == "ord" for k in call.keywords):
                rest = "".join(f", {ast.unparse(keyword)}" for keyword in call.keywords)
                squared = f"{lib}.{total}({_bracketed(place.text_of(argument))} ** 2{rest})"
                safe = f"{lib}.sqrt({lib}.where({squared} > 0, {squared}, 1.0))"
                yield call, f"{lib}.where({squared} > 0, {safe}, 0.0)", "a root of 1 where the norm is 0"
    for call in place.calls("atan2", "arctan2") if op == "atan2" else ():
        y, x = map(place.text_of, call.args[:2]) if len(call.args) > 1 else ("", "")
        if x:
            # atan2(0, 1) is 0 too.
            yield call.args[1], f"{lib}.where(({x} == 0) & ({y} == 0), {_ones(lib, x)}, {x})", "away from the origin"
    if op in ("div", "reciprocal", "pow"):
        for node in place.nodes(ast.BinOp):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Div)
                and not isinstance(node.right, ast.Constant)
            ):
                x = place.text_of(node.right)
                yield node.right, f"{lib}.where({x} != 0, {x}, {_ones(lib, x)})", "a divisor of 1 where it is 0"


def _ones(lib: str, x: str) -> str:
    return f"{lib}.ones_like({x})"


def stable_loss(evidence: Evidence, place: _Place) -> Made:
    """Use the form that never makes the number that overflows or is rounded to 0."""
    lib = place.library
    nn = {"tf": "tf.nn", "jnp": "jax.nn", "ops": "ops"}.get(lib)
    log_sigmoid = "logsigmoid" if place.is_mindspore else "log_sigmoid"
    for call in place.calls("log"):
        inner = _argument(call)
        if nn is None or not isinstance(inner, ast.Call):
            continue
        argument = _argument(inner)
        if argument is None:
            continue
        rest = "".join(f", {ast.unparse(given)}" for given in [*inner.args[1:], *inner.keywords])
        if _name(inner) == "softmax":
            yield call, f"{nn}.log_softmax({place.text_of(argument)}{rest})", "log-softmax in one"
        if _name(inner) == "sigmoid":
            yield call, f"{nn}.{log_sigmoid}({place.text_of(argument)})", "log-sigmoid in one"
        if _name(inner) in ("sum", "reduce_sum") and isinstance(argument, ast.Call) and _name(argument) == "exp":
            under = _argument(argument)
            name = {"tf": "tf.reduce_logsumexp", "jnp": "jax.nn.logsumexp", "ops": "ops.logsumexp"}[lib]
            if under is not None:
                yield call, f"{name}({place.text_of(under)}{rest})", "log-sum-exp in one"
    if facts.op_of(evidence) == "exp":
        biggest = "reduce_max" if lib == "tf" else "max"
        for call in place.calls("exp"):
            argument = _argument(call)
            if argument is None or isinstance(argument, ast.Starred):
                continue
            x = place.text_of(argument)
            shift = f"{lib}.{biggest}({x}, axis=-1, keepdims=True)"
            if place.is_mindspore:  # its `max` gives the index too
                shift = f"{lib}.amax({x}, -1, True)"
            if isinstance(argument, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)) and _is_softmax(place):
                yield argument, f"{x} - {shift}", "the row's maximum subtracted before exp"
    if facts.op_of(evidence) in ("log", "div", "sub", "log1p") and nn is not None:
        for call in place.calls("log"):
            argument = _argument(call)
            if argument is not None and lib in ("tf", "ops", "jnp"):
                x = place.text_of(argument)
                yield argument, f"{lib}.maximum({x}, 1e-7)", "a probability of at least 1e-7, as stable losses have it"


def _is_softmax(place: _Place) -> bool:
    """Whether the exponential is one that is divided by its own sum, nearby: only then may it be shifted."""
    around = "".join(part.decode() for part in place.lines[max(place.line - 3, 0) : place.line + 4])
    return bool(re.search(r"/", around)) and bool(re.search(r"sum\(", around))


def mask_fix(evidence: Evidence, place: _Place) -> Made:
    low = "-6e4" if facts.runs_in_half(evidence) else "-1e9"
    for node in ast.walk(place.tree):
        if isinstance(node, (ast.UnaryOp, ast.Call)) and _INFINITY.fullmatch(place.text_of(node).strip()):
            yield node, low, f"{low} in place of -inf as mask"


_LENGTHS = re.compile(r"norm|sqrt|std|var|max")
"""A divisor made like that measures something, and counts nothing."""


def skip_empty(evidence: Evidence, place: _Place) -> Made:
    lib = place.library
    op = facts.op_of(evidence)
    for call in place.calls("mean", "reduce_mean", "nanmean"):
        argument = _argument(call)
        x = place.text_of(argument) if argument is not None else place.text_of(call.func.value)  # type: ignore[attr-defined]
        if call.keywords or len(call.args) > 1:
            continue
        if lib == "tf":
            count = f"tf.maximum(tf.cast(tf.size({x}), {_bracketed(x)}.dtype), 1.0)"
            yield call, f"tf.reduce_sum({x}) / {count}", "the sum over the count, at least 1"
        else:
            yield call, f"{lib}.sum({x}) / max({_bracketed(x)}.size, 1)", "the sum over the count, at least 1"
    if op in ("div", "reciprocal") and not _has_fractions(evidence):
        for node in place.nodes(ast.BinOp):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Div)
                and not isinstance(node.right, ast.Constant)
                and not _LENGTHS.search(place.text_of(node.right))
            ):
                yield node.right, f"{lib}.maximum({place.text_of(node.right)}, 1)", "a count of at least 1"
                yield node.right, f"{lib}.maximum({place.text_of(node.right)}, 1.0)", "a count of at least 1"


def _has_fractions(evidence: Evidence) -> bool:
    """Whether what was divided by holds numbers that count nothing."""
    given = evidence.origin.inputs if evidence.origin is not None else ()
    divisor = given[1:2] if facts.op_of(evidence) == "div" else given[:1]
    return any(tensor.max is not None and tensor.max % 1 != 0 for tensor in divisor)


def larger_eps(evidence: Evidence, place: _Place) -> Made:
    """Add an eps that the dtype can hold to what a normalisation by hand divides by."""
    for node in _divisions(place):
        eps = "1e-3" if facts.dtype_of(evidence) == "float16" else "1e-5"
        yield node.right, f"({place.text_of(node.right)} + {eps})", f"{eps} added to the divisor"
    yield from _each(place, _ROOTS, lambda x: f"{x} + 1e-5", "1e-5 added under the root")


_CALLED = {"reduce_std": "std", "reduce_variance": "var", "arccos": "acos", "arcsin": "asin", "arctan2": "atan2",
           "divide": "div", "true_divide": "div", "power": "pow"}  # fmt: skip
"""What libraries call an operation that a part of whynan has under another name."""


def part_changes(part: str, file: str, line: int) -> Iterator[Change]:
    """Yield the line with a part of whynan, "whynan.jax.ops.log", in the place of each such operation, one at a time.

    The part is imported in place: the source is for functions that run already.
    """
    text = "".join(linecache.getlines(file))
    try:
        place = _Place(file, text, ast.parse(text), line)
    except (SyntaxError, ValueError):
        return
    module, _, name = part.rpartition(".")
    function = f'__import__("{module}", fromlist=["{name}"]).{name}'
    words = f"{part} in the operation's place"
    calls = place.calls(name, *(other for other, own in _CALLED.items() if own == name))
    found: list[tuple[ast.expr, str]] = []
    found += [(call.func, function) for call in calls if isinstance(call.func, ast.Attribute) and call.args]
    operators: dict[str, type[ast.operator]] = {"div": ast.Div, "pow": ast.Pow}
    for node in place.nodes(ast.BinOp) if name in operators else ():
        assert isinstance(node, ast.BinOp)
        if isinstance(node.op, operators[name]) and not isinstance(node.right, ast.Constant):
            found += [(node, f"{function}({place.text_of(node.left)}, {place.text_of(node.right)})")]
    for place_of_it, new in found:
        change = place.replaced(place_of_it, new, words)
        if change is not None:
            yield change


_MAKERS: dict[str, Callable[[Evidence, _Place], Made]] = {
    "clamp-or-eps": clamp_or_eps,
    "double-where": double_where,
    "stable-loss": stable_loss,
    "mask-fix": mask_fix,
    "skip-empty": skip_empty,
    "larger-eps": larger_eps,
    "fix-custom-op": clamp_or_eps,
}
