"""The plain name of an operation, and the user's own line and sub-expression of it, from the Python stack."""

import ast
import linecache
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType

from whynan.launch.host import is_user_file
from whynan.records import SourceLine
from whynan.trace import Frame

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_PLAIN = {
    "real_div": "div", "truediv": "div", "true_divide": "div", "divide": "div", "xdivy": "div", "floor_div": "div",
    "add_v2": "add", "add_n": "add", "add_any": "add", "bias_add": "add", "select_v2": "where", "select": "where",
    "select_n": "where", "mat_mul": "matmul", "batch_mat_mul_v2": "matmul", "batch_mat_mul": "matmul",
    "dot_general": "matmul", "dot": "matmul", "inner": "matmul", "vdot": "matmul", "conv2_d": "conv2d",
    "conv_general_dilated": "conv", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min",
    "reduce_prod": "prod", "reduce_mean": "mean", "reduce_std": "std", "reduce_variance": "var", "logistic": "sigmoid",
    "fused_batch_norm_v3": "batch_norm", "fused_batch_norm": "batch_norm", "integer_pow": "pow", "power": "pow",
    "float_power": "pow", "multiply": "mul", "subtract": "sub", "negative": "neg", "reciprocal_no_nan": "reciprocal",
    "sparse_softmax_cross_entropy_with_logits": "cross_entropy", "softmax_cross_entropy_with_logits": "cross_entropy",
    "reduce_logsumexp": "logsumexp", "log_sum_exp": "logsumexp", "euclidean_norm": "norm", "arccos": "acos",
    "arcsin": "asin", "arctanh": "atanh", "arccosh": "acosh", "inv": "reciprocal", "l2_normalize": "rsqrt",
    "resource_apply_adam": "adam",
}  # fmt: skip
SPOKEN = frozenset(
    """norm softmax log_softmax logsumexp reduce_logsumexp std var reduce_std reduce_variance euclidean_norm
    masked_softmax mean nanmean reduce_mean xlogy logaddexp cdist hypot moments average median""".split()  # noqa: SIM905
)
"""Functions that libraries make of several operations, and that a reader knows by name."""
ELEMENTWISE = frozenset(
    """add sub mul div pow exp log log1p expm1 sqrt rsqrt reciprocal square neg abs sign tanh sigmoid where maximum
    minimum max_ acos asin atanh acosh sinh cosh sin cos tan erf squared_difference convert_element_type cast identity
    copy relu softplus exp2 log2 log10 xlogy selu elu stop_gradient name leaky_relu clip clip_by_value""".split()  # noqa: SIM905
)


def plain_name(name: str) -> str:
    snake = _CAMEL.sub("_", name).lower().strip("_") if name != name.lower() else name.strip("_")
    return _PLAIN.get(snake, snake)


def forward_name(name: str) -> str:
    """Return the name of the op that a gradient kernel (SqrtGrad, ReluGrad) is the derivative of."""
    return plain_name(re.sub(r"Grad(V\d)?$", "", name))


def spoken_name(primitive: str, called: str | None) -> str:
    """Return the name by which a reader knows the op: that of the library's function where it has one."""
    if called in SPOKEN:
        return _PLAIN.get(called, called)
    return plain_name(primitive)


_DEPTH = 400
_CALLED = re.compile(r"(\w+)\s*$")


def user_frames(frame: FrameType | None, within: FrameType | None = None) -> tuple[Frame, ...]:
    """Return the frames of the user's own code from `frame` outwards, innermost first, up to the frame `within`."""
    found = []
    for _ in range(_DEPTH):
        if frame is None or frame is within:
            break
        code = frame.f_code
        if is_user_file(code.co_filename):
            found.append(Frame(code.co_filename, frame.f_lineno, code.co_name, code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def calling_frame() -> Frame | None:
    """Return the innermost frame of the user's own code that now runs."""
    frames = user_frames(sys._getframe(1))
    return frames[0] if frames else None


def source_line(frame: Frame | None) -> SourceLine:
    """Return a frame's line as the user would name it."""
    if frame is None:
        return SourceLine(None, None, None, None)
    code = linecache.getline(frame.file, frame.line).strip()
    return SourceLine(short_path(frame.file), frame.line, frame.function, code or None)


roots: list[Path] = []
"""Working directories of the program's other processes, where this is a worker with one of its own."""


def short_path(file: str) -> str:
    """Return a path relative to the working directory where it lies below it."""
    for root in (*roots, None):
        try:
            return str(Path(file).resolve().relative_to(root or Path.cwd()))
        except (ValueError, OSError):
            continue
    return file


@lru_cache(maxsize=4096)
def expression_of(code: CodeType, lasti: int) -> str | None:
    """Return the text of the sub-expression that an instruction of the code computes; None where it is not known."""
    positions = list(code.co_positions())
    if not 0 <= lasti // 2 < len(positions):
        return None
    line, end_line, column, end_column = positions[lasti // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(line, end_line + 1)]
    if not lines:
        return None
    lines[-1] = lines[-1][:end_column]
    lines[0] = lines[0][column:]
    return b"".join(lines).decode(errors="replace")


def called_name(frame: Frame | None) -> str | None:
    """Return the name of the function that the frame's current instruction calls: "norm" for `jnp.linalg.norm(x)`."""
    text = expression_of(frame.code, frame.lasti) if frame is not None else None
    if not text:
        return None
    try:
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(node, ast.Call):
        return None
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None


def keyword_line(frame: Frame | None, names: tuple[str, ...]) -> Frame | None:
    """Return the frame with its line moved to the argument of that name in the call that it stands in."""
    if frame is None:
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(frame.file)))
    except (SyntaxError, ValueError):
        return frame
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.lineno <= frame.line <= (node.end_lineno or node.lineno):
            for keyword in node.keywords:
                if keyword.arg in names:
                    return Frame(frame.file, keyword.value.lineno, frame.function, frame.code, frame.lasti)
    return frame
