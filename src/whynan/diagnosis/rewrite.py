"""Lines that mend: the user's own with one expression replaced and every other character as it was, or a line in the
words of frameworks other than PyTorch.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence

from whynan.diagnosis import facts
from whynan.records import Evidence

# What stands before the dot of a function, not of a method.
MODULES = ("torch", "F", "np", "numpy", "math", "torch.linalg", "nn.functional", "jnp", "tf", "torch.nn.functional",
           "tf.math", "torch.special", "linalg", "ops", "np.linalg")  # fmt: skip

Snippet = Callable[[Evidence], str | None]


def parse(code: str | None) -> tuple[str, ast.AST] | None:
    """Return the stripped line and its syntax tree; None where no tree can be made of the line alone."""
    line = (code or "").strip()
    # The head of a block is a statement once it has a body. Of a statement over several lines this is a part.
    for candidate in (line, f"{line} pass", line.removeprefix("el") + " pass", _without_loose_ends(line)):
        try:
            return line, ast.parse(candidate)
        except (SyntaxError, ValueError):
            continue
    return None


def _without_loose_ends(line: str) -> str:
    """Return the line with spaces for brackets that have no partner in it and for an operator at its end.

    Columns stay, so that what is found in the tree is found in the line. Brackets in strings do not count.
    """
    shown = re.sub(r"""(["'])(?:\\.|(?!\1).)*\1""", lambda found: "_" * len(found.group()), line)
    opened, loose = [], []
    for column, character in enumerate(shown):
        if character in "([{":
            opened.append(column)
        elif character in ")]}":
            loose += [] if opened else [column]
            del opened[-1:]
    found = list(line)
    for column in loose:
        found[column] = " "
    for column in opened:
        # What is called or indexed there goes with its bracket.
        name = re.search(r"[\w.]*$", shown[:column])
        start = name.start() if name else column
        found[start : column + 1] = " " * (column + 1 - start)
    text = "".join(found)
    ending = re.search(r"[-+*/%@|&^<>=,]+\s*(#.*)?$", text)
    return text if ending is None else text[: ending.start()]


def named_numbers(lines: Sequence[str], line: int) -> dict[str, float]:
    """Return the floats that names on line `line` of a file stand for: defaults of arguments, constants of the file.

    An attribute is taken for the argument of the same name in the class around the line.
    """
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    known: dict[str, ast.expr | None] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = node.value
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    for part in (inner for outer in around for inner in ast.walk(outer)):
        if isinstance(part, ast.FunctionDef) and (part in around or part.name == "__init__"):
            given = part.args.args
            known |= {a.arg: d for a, d in zip(given[len(given) - len(part.args.defaults) :], part.args.defaults)}
            known |= {a.arg: d for a, d in zip(part.args.kwonlyargs, part.args.kw_defaults)}
    used = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(tree) if getattr(n, "lineno", 0) == line}
    values = {name: getattr(known.get(name), "value", None) for name in used}
    return {name: value for name, value in values.items() if isinstance(value, float)}


def assigned_above(lines: Sequence[str], line: int) -> dict[str, str]:
    """Return what names of the function hold that line `line` of a file stands in, where one expression was assigned.

    Only whole-line assignments in the body that the line belongs to, or around it; a name that is assigned twice is
    left out, and so is one in whose expression a name is assigned again. Modules' short names are among them.
    """
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return {}
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname: alias.name for alias in node.names if alias.asname})
    functions = [
        n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.lineno <= line <= (n.end_lineno or 0)
    ]
    inside = max(functions, key=lambda node: node.lineno) if functions else tree
    values: dict[str, list[ast.expr | None]] = {}
    for node in ast.walk(inside):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            values.setdefault(node.id, []).append(None)
    for node in ast.walk(inside):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and len(node.targets) == 1:
            is_above = node.lineno < line
            values[node.targets[0].id][:] = [*values[node.targets[0].id][1:], node.value if is_above else None]
    for name, given in values.items():
        value = given[0] if len(given) == 1 else None
        names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)} if value is not None else set()
        if value is not None and all(len(values.get(other, ())) <= 1 for other in names):
            found[name] = ast.unparse(value)
    return found


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Yield the calls of these functions or methods, the innermost last."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node) in names:
            yield node


def name_of(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def owner_of(call: ast.Call) -> str:
    """Return what stands before the dot: "torch" in torch.log(x), "x" in x.log(), "" for log(x)."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def is_method(call: ast.Call) -> bool:
    """Return whether the call works on what stands before the dot rather than on its first argument."""
    owner = owner_of(call)
    return bool(owner) and owner not in MODULES


def argument_of(call: ast.Call) -> ast.expr | None:
    """Return the expression that the function works on."""
    if is_method(call) and isinstance(call.func, ast.Attribute):
        return call.func.value
    return call.args[0] if call.args else None


def text_of(line: str, node: ast.expr) -> str:
    """Return the node's source text; columns count bytes of UTF-8."""
    data = line.encode()
    return data[node.col_offset : node.end_col_offset].decode()


def replaced(line: str, node: ast.expr, new: str) -> str:
    data = line.encode()
    return (data[: node.col_offset] + new.encode() + data[node.end_col_offset :]).decode()


def bracketed(line: str, node: ast.expr) -> str:
    """Return the node's text, in brackets where a method call or an operator behind it would bind more tightly."""
    text = text_of(line, node)
    simple = isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    return text if simple else f"({text})"


def wrap_argument(code: str | None, names: tuple[str, ...], new: Callable[[str, str], str]) -> str | None:
    """Return the line with the argument x of the call of one of these functions replaced by new(x, owner).

    x comes bracketed where it has to be; owner is what stands before the dot of a function ("torch", "np").
    """
    parsed = parse(code)
    if parsed is None:
        return None
    line, tree = parsed
    for call in calls(tree, *names):
        argument = argument_of(call)
        if argument is None or isinstance(argument, ast.Starred):
            continue
        owner = "" if is_method(call) else owner_of(call)
        text = new(bracketed(line, argument), owner)
        if is_method(call) and not text.endswith(")"):
            text = f"({text})"
        # A method's receiver that is in brackets already: their columns are not the node's.
        return replaced(line, argument, text)
    return None


def replace_divisor(code: str | None, new: Callable[[str], str]) -> str | None:
    """Return the line with the divisor of its only division replaced; None where it has none or several."""
    # x / 2 can't be it.
    return _replace_operand(code, ast.Div, lambda node: node.right, lambda x: not isinstance(x, ast.Constant), new)


def replace_power_base(code: str | None, new: Callable[[str], str]) -> str | None:
    """Return the line with the base of its only power replaced."""
    return _replace_operand(code, ast.Pow, lambda node: node.left, lambda x: True, new)


def _replace_operand(
    code: str | None,
    kind: type[ast.operator],
    operand: Callable[[ast.BinOp], ast.expr],
    may_be: Callable[[ast.expr], bool],
    new: Callable[[str], str],
) -> str | None:
    parsed = parse(code)
    if parsed is None:
        return None
    line, tree = parsed
    operations = (node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, kind))
    found = [x for x in map(operand, operations) if may_be(x)]
    if len(found) != 1:
        return None
    (node,) = found
    before = line.encode()[: node.col_offset].decode().rstrip()
    # The columns of a bracketed node lie inside its brackets.
    in_brackets = before.endswith("(") and isinstance(node, (ast.BinOp, ast.UnaryOp))
    text = new(text_of(line, node))
    return replaced(line, node, text if in_brackets or is_atom(text) else f"({text})")


def is_atom(text: str) -> bool:
    """Return whether the text needs no brackets beside an operator."""
    try:
        return isinstance(ast.parse(text, mode="eval").body, (ast.Name, ast.Attribute, ast.Call, ast.Subscript))
    except SyntaxError:
        return False


def set_keyword(code: str | None, keyword: str, value: str) -> str | None:
    """Return the line with the keyword of a call set to another value, added to the last call where it is missing."""
    parsed = parse(code)
    if parsed is None:
        return None
    line, tree = parsed
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in found:
        for given in call.keywords:
            if given.arg == keyword:
                return replaced(line, given.value, value)
    if not found:
        return None
    end = found[0].end_col_offset or len(line)
    data = line.encode()
    comma = ", " if found[0].args or found[0].keywords else ""
    return (data[: end - 1] + f"{comma}{keyword}={value}".encode() + data[end - 1 :]).decode()


def patch_for(framework: str, slug: str, evidence: Evidence) -> str | None:
    """Return the line for a remedy; None where the framework has no word of its own for it."""
    made = _SNIPPETS.get(framework, {}).get(slug)
    return made(evidence) if made is not None else None


def _rate(evidence: Evidence, factor: float = 0.1, name: str = "learning_rate") -> str:
    known = max(evidence.history.lr, default=0.0) or (evidence.optimizer.lr if evidence.optimizer else None)
    return facts.number(known * factor) if known else name if factor == 1 else f"{factor:g} * {name}"


def _name(evidence: Evidence, default: str) -> str:
    return evidence.optimizer.name if evidence.optimizer is not None and evidence.optimizer.name else default


def _indices(evidence: Evidence) -> str | None:
    found = sorted({sample.index for sample in evidence.samples if sample.index is not None})
    return ", ".join(map(str, found)) if found and len(found) <= 16 else None


def _weight(evidence: Evidence, default: str) -> str:
    names = [name for name, _ in evidence.history.largest_gain_start[:1]]
    return names[0] if names and all(part.isidentifier() for part in names[0].split(".")) else default


def _without_rows(evidence: Evidence) -> str | None:
    inside = _indices(evidence)
    return f"x, y = np.delete(x, [{inside}], axis=0), np.delete(y, [{inside}], axis=0)" if inside else None


def _known_targets(evidence: Evidence) -> str | None:
    is_label = evidence.bad_leaf is None and evidence.batch.labels_out_of_range
    return None if is_label else "known = np.isfinite(y); x, y = x[known], y[known]"


_KERAS: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"keras.optimizers.{_name(e, 'Adam')}(learning_rate={_rate(e)})",
    "clip-gradients": lambda e: f"keras.optimizers.{_name(e, 'Adam')}(..., global_clipnorm=1.0)",
    "warmup": lambda e: (
        f"keras.optimizers.schedules.CosineDecay(0.0, decay_steps=10_000, warmup_target={_rate(e, 1.0)}, "
        "warmup_steps=500)"
    ),
    "better-init": lambda e: 'layers.Dense(..., kernel_initializer="he_normal")',
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: 'keras.mixed_precision.set_global_policy("float32")',
    "grad-scaler": lambda e: "optimizer = keras.optimizers.LossScaleOptimizer(optimizer)",
    "larger-batch-or-groupnorm": lambda e: "layers.GroupNormalization(groups=8)  # for BatchNormalization",
}
_TENSORFLOW: dict[str, Snippet] = {
    **_KERAS,
    "clip-gradients": lambda e: "grads, _ = tf.clip_by_global_norm(grads, 1.0)",
    "better-init": lambda e: "w = tf.Variable(tf.random.normal(shape) / fan_in ** 0.5)",
    "full-precision": lambda e: "x = tf.cast(x, tf.float32)",
}
_JAX: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"learning_rate = {_rate(e)}",
    "clip-gradients": lambda e: "optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)",
    "warmup": lambda e: f"optax.warmup_cosine_decay_schedule(0.0, {_rate(e, 1.0)}, 500, 10_000)",
    "better-init": lambda e: "w = jax.random.normal(key, (fan_in, fan_out)) / fan_in ** 0.5",
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "x = x.astype(jnp.float32)",
    "larger-eps": lambda e: "optax.adam(learning_rate, eps=1e-6)",
}
_NUMPY: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"lr = {_rate(e, name='lr')}",
    "clip-gradients": lambda e: "norm = np.sqrt(sum((g**2).sum() for g in grads)); lr_now = lr * min(1, 1 / norm)",
    "warmup": lambda e: "lr_now = lr * min(1, (step + 1) / 500)",
    "better-init": lambda e: f"{(w := _weight(e, 'W'))} = rng.normal(size={w}.shape) / np.sqrt({w}.shape[0])",
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "x = x.astype(np.float64)",
}
_MINDSPORE: dict[str, Snippet] = {
    "lower-learning-rate": lambda e: f"nn.{_name(e, 'SGD')}(model.trainable_params(), learning_rate={_rate(e)})",
    "clip-gradients": lambda e: "grads = ops.clip_by_global_norm(grads, 1.0)",
    "warmup": lambda e: f"nn.WarmUpLR({_rate(e, 1.0)}, 500)",
    "better-init": lambda e: 'nn.Dense(..., weight_init="he_normal")',
    "drop-sample": _without_rows,
    "fix-labels": _known_targets,
    "full-precision": lambda e: "net.to_float(ms.float32)",
    "grad-scaler": lambda e: "scaler = amp.DynamicLossScaler(2**16, 2, 1000)",
    "larger-batch-or-groupnorm": lambda e: "nn.GroupNorm(8, channels)  # for nn.BatchNorm2d",
}
_SNIPPETS = {
    "keras": _KERAS, "tensorflow": _TENSORFLOW, "jax": _JAX, "numpy": _NUMPY, "mindspore": _MINDSPORE,
}  # fmt: skip


_GUARDED = {
    "log": "log", "log2": "log", "log10": "log", "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "sqrt", "exp": "exp",
    "div": "div", "reciprocal": "reciprocal", "pow": "pow", "norm": "norm", "linalg_vector_norm": "norm", "std": "std",
    "var": "var", "acos": "acos", "asin": "asin", "atan2": "atan2", "logsumexp": "logsumexp", "normalize": "normalize",
}  # fmt: skip
"""Operation -> function of `ops` that saturates or has a bounded slope in its place."""
_PACKAGES = {"torch": "torch", "tensorflow": "keras", "keras": "keras", "jax": "jax", "mindspore": "mindspore",
             "numpy": "numpy"}  # fmt: skip
"""Framework -> package of whynan with its parts. Keras' run on TensorFlow's tensors."""
_AT_ITS_LINE = ("clamp-or-eps", "double-where")


def part_for(framework: str, slug: str, op: str) -> str | None:
    """Return the part that a remedy may use in the operation's place, "whynan.torch.ops.log"; None where none fits."""
    package, name = _PACKAGES.get(framework), _GUARDED.get(op)
    if slug not in _AT_ITS_LINE or package is None or name is None:
        return None
    return f"whynan.{package}.ops.{name}"
