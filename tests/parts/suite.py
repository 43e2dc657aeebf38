"""What every framework's parts have to do, told once: finite values and gradients, and the numbers of mpmath."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import mpmath
import numpy as np
from hypothesis import strategies as st

mpmath.mp.dps = 60
DTYPES = ("float64", "float32", "bfloat16", "float16")
CLASSES = 4
IGNORED = -100


class Framework(Protocol):
    """One framework under test."""

    ops: Any
    losses: Any

    def array(self, x: np.ndarray) -> Any: ...
    def run(self, call: Callable[..., Any], arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the results of a call, and the gradients of their sum by each array; no gradients where there are
        none.
        """


@dataclass(frozen=True)
class Case:
    """One way to call a part: the shapes of its arguments for n items, and the call (framework, n, *arrays)."""

    name: str
    shapes: Callable[[int], list[tuple[int, ...]]]
    call: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


def info(dtype: str) -> Any:
    return ml_dtypes.finfo(np_dtype(dtype))


def np_dtype(dtype: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def special(dtype: str) -> list[float]:
    """Return numbers at the ends and edges of a dtype."""
    f = info(dtype)
    top, tiny, eps = float(f.max), float(f.smallest_normal), float(f.eps)
    half = [
        top,
        tiny,
        float(f.smallest_subnormal),
        1 - eps / 2,
        1.0,
        1 + eps,
        0.5,
        3.0,
        11.0,
        88.7,
        100.0,
        eps,
        top / 2,
    ]
    return [0.0, -0.0, *half, *(-x for x in half)]


def numbers(dtype: str) -> st.SearchStrategy[list[float]]:
    """Draw finite numbers of a dtype, many of them at its edges."""
    top = float(info(dtype).max)
    anything = st.floats(-top, top, allow_nan=False, allow_infinity=False)
    usual = st.floats(-5, 5, allow_nan=False)
    return st.lists(st.one_of(st.sampled_from(special(dtype)), usual, anything), min_size=1, max_size=20)


def fill(values: list[float], shapes: list[tuple[int, ...]], dtype: str) -> list[np.ndarray]:
    """Return arrays of these shapes that hold the values over and over, each beginning with another one."""
    top = float(info(dtype).max)
    arrays = []
    for index, shape in enumerate(shapes):
        row = np.roll(np.array(values, dtype=np.float64), index * 3)
        arrays.append(np.resize(np.clip(row, -top, top), shape).astype(np_dtype(dtype)))
    return arrays


def labels(n: int, classes: int = CLASSES, ignored: int | None = None) -> np.ndarray:
    found = np.arange(n) % classes
    if ignored is not None and n:
        found[::3] = ignored
    return found


def vector(n: int) -> list[tuple[int, ...]]:
    return [(n,)]


def two(n: int) -> list[tuple[int, ...]]:
    return [(n,), (n,)]


def rows(n: int) -> list[tuple[int, ...]]:
    return [(n, CLASSES)]


def two_rows(n: int) -> list[tuple[int, ...]]:
    return [(n, CLASSES), (n, CLASSES)]


def elementwise() -> list[Case]:
    names = ("log", "log1p", "sqrt", "exp", "acos", "asin", "reciprocal")
    cases = [Case(f"ops.{name}", vector, lambda f, n, x, name=name: getattr(f.ops, name)(x)) for name in names]
    cases += [
        Case(f"ops.{name}", two, lambda f, n, a, b, name=name: getattr(f.ops, name)(a, b))
        for name in ("div", "atan2", "pow")
    ]
    cases += [
        Case(f"ops.pow {p}", vector, lambda f, n, x, p=p: f.ops.pow(x, p)) for p in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0)
    ]
    return cases


def reductions() -> list[Case]:
    names = ("norm", "normalize", "std", "var", "standardize", "logsumexp", "softmax", "mean")
    cases = [Case(f"ops.{name}", rows, lambda f, n, x, name=name: getattr(f.ops, name)(x, dim=1)) for name in names]
    names = ("norm", "std", "var", "standardize", "logsumexp", "mean")
    cases += [Case(f"ops.{name} over all", rows, lambda f, n, x, name=name: getattr(f.ops, name)(x)) for name in names]
    cases += [Case(f"ops.norm {p}", rows, lambda f, n, x, p=p: f.ops.norm(x, 1, p=p)) for p in (1.0, 3.0, float("inf"))]

    def mask(f: Framework, n: int) -> Any:
        return f.array((np.arange(n * CLASSES).reshape(n, CLASSES) // 3) % 2 == 0)

    cases += [
        Case("ops.softmax, mask", rows, lambda f, n, x: f.ops.softmax(x, 1, mask(f, n))),
        Case("ops.masked_mean", rows, lambda f, n, x: f.ops.masked_mean(x, mask(f, n))),
        Case("ops.masked_mean by row", rows, lambda f, n, x: f.ops.masked_mean(x, mask(f, n), 1)),
    ]
    return cases


def losses(reduction: str) -> list[Case]:
    kind = {"reduction": reduction}

    def case(name: str, shapes: Callable[[int], list[tuple[int, ...]]], call: Callable[..., Any]) -> Case:
        return Case(f"losses.{name}, {reduction}", shapes, call)

    def on(f: Framework, n: int, like: Any) -> Any:
        # Integers, which leave the dtype of the result alone.
        return f.array(labels(n, 2))

    def index(f: Framework, n: int) -> Any:
        return f.array(labels(n, ignored=IGNORED))

    cases = [
        case("binary_cross_entropy", vector, lambda f, n, p: f.losses.binary_cross_entropy(p, on(f, n, p), **kind)),
        case("binary_cross_entropy, any y", two, lambda f, n, p, y: f.losses.binary_cross_entropy(p, y, **kind)),
        case("binary_cross_entropy_with_logits", two,
             lambda f, n, x, y: f.losses.binary_cross_entropy_with_logits(x, y, **kind)),
        case("cross_entropy", rows, lambda f, n, x: f.losses.cross_entropy(x, index(f, n), **kind)),
        case("cross_entropy, smooth", rows,
             lambda f, n, x: f.losses.cross_entropy(x, index(f, n), label_smoothing=0.1, **kind)),
        case("cross_entropy, weight", rows,
             lambda f, n, x: f.losses.cross_entropy(x, index(f, n), f.array(np.arange(4, dtype=np.float32)), **kind)),
        case("cross_entropy, all ignored", rows,
             lambda f, n, x: f.losses.cross_entropy(x, f.array(labels(n) * 0 + IGNORED), ignore_index=IGNORED, **kind)),
        case("cross_entropy, soft", two_rows, lambda f, n, x, y: f.losses.cross_entropy(x, y, **kind)),
        case("categorical_cross_entropy", rows,
             lambda f, n, p: f.losses.categorical_cross_entropy(p, index(f, n), **kind)),
        case("lovasz_softmax_loss", rows, lambda f, n, x: f.losses.lovasz_softmax_loss(x, index(f, n), **kind)),
        case("smooth_l1_loss", two, lambda f, n, a, b: f.losses.smooth_l1_loss(a, b, **kind)),
        case("smooth_l1_loss, beta 0", two, lambda f, n, a, b: f.losses.smooth_l1_loss(a, b, beta=0.0, **kind)),
        case("smooth_l1_loss, sigma", two, lambda f, n, a, b: f.losses.smooth_l1_loss(a, b, sigma=3.0, **kind)),
        case("relative_error_loss", two, lambda f, n, a, b: f.losses.relative_error_loss(a, b, **kind)),
        case("relative_error_loss, denominator", lambda n: [(n,)] * 3,
             lambda f, n, a, b, c: f.losses.relative_error_loss(a, b, c, **kind)),
        case("gaussian_nll_loss", lambda n: [(n,)] * 3, lambda f, n, a, b, c: f.losses.gaussian_nll_loss(a, b, c,
        **kind)), case("kl_divergence_normal", two, lambda f, n, a, b: f.losses.kl_divergence_normal(a, b, **kind)),
        case("contrastive_loss", two_rows, lambda f, n, a, b: f.losses.contrastive_loss(a, b, on(f, n, a), **kind)),
        case("info_nce_loss", two_rows, lambda f, n, a, b: f.losses.info_nce_loss(a, b, **kind)),
        case("pairwise_distance", two_rows, lambda f, n, a, b: f.losses.pairwise_distance(a, b, **kind)),
        case("cosine_distance", two_rows, lambda f, n, a, b: f.losses.cosine_distance(a, b, **kind)),
        case("rpn_loss", lambda n: [(n,), (n, 4), (n, 4)],
             lambda f, n, a, b, c: f.losses.rpn_loss(a, b, f.array(labels(n, 3) - 1), c, **kind)),
        case("fast_rcnn_loss", lambda n: [(n, CLASSES), (n, 4 * CLASSES), (n, 4)],
             lambda f, n, a, b, c: f.losses.fast_rcnn_loss(a, b, f.array(labels(n)), c, **kind)),
        case("ctc_loss", lambda n: [(5, n, CLASSES)], lambda f, n, x: f.losses.ctc_loss(
            x, f.array(np.ones((n, 3), np.int64)), f.array(np.full(n, 5)), f.array(np.arange(n) % 4), **kind)),
    ]  # fmt: skip
    for gamma in (0.0, 0.5, 2.0):
        cases += [
            case(f"focal_loss {gamma}", two, lambda f, n, x, y, g=gamma: f.losses.focal_loss(x, y, gamma=g, **kind)),
            case(f"focal_loss of classes {gamma}", rows,
                 lambda f, n, x, g=gamma: f.losses.focal_loss(x, index(f, n), gamma=g, **kind)),
        ]  # fmt: skip
    for name in ("dice_loss", "tversky_loss", "jaccard_loss"):
        cases.append(case(name, two_rows, lambda f, n, a, b, name=name: getattr(f.losses, name)(a, b, **kind)))
    for name in ("iou_loss", "giou_loss", "diou_loss", "ciou_loss"):
        cases.append(case(name, two_rows, lambda f, n, a, b, name=name: getattr(f.losses, name)(a, b, **kind)))
        cases.append(
            case(f"{name}, equal boxes", rows, lambda f, n, a, name=name: getattr(f.losses, name)(a, a, **kind))
        )
    if reduction == "none":
        for name in ("encode_boxes", "decode_boxes"):
            cases.append(Case(f"losses.{name}", two_rows, lambda f, n, a, b, name=name: getattr(f.losses, name)(a, b)))
    return cases


ALL = [*elementwise(), *reductions(), *losses("mean"), *losses("sum"), *losses("none")]
# For frameworks that compile each case anew: the reductions differ in their last operation only.
ONE_REDUCTION = [*elementwise(), *reductions(), *losses("mean")]
EMPTY_GIVES_ZERO = losses("mean")


def finite(framework: Framework, case: Case, dtype: str, n: int, values: list[float]) -> None:
    """Raise where a part's value or gradient is not finite, or comes in another dtype."""
    arrays = fill(values, case.shapes(n), dtype)
    results, gradients = framework.run(lambda *xs: case.call(framework, n, *xs), arrays)
    for result in results:
        assert np.isfinite(result.astype(np.float64)).all(), f"{case} {dtype}: {result} for {arrays}"
        assert result.dtype == arrays[0].dtype
    for gradient, array in zip(gradients, arrays, strict=bool(gradients)):
        assert gradient.shape == array.shape
        assert np.isfinite(gradient.astype(np.float64)).all(), f"{case} {dtype}: gradient {gradient} for {arrays}"


def many_edges(framework: Framework, case: Case, dtype: str, n: int = 12) -> None:
    """Check a case on edges in `n` combinations, all of one shape."""
    edges = special(dtype)
    rng = np.random.default_rng(0)
    for _ in range(n):
        finite(framework, case, dtype, 13, list(rng.permutation(np.concatenate([edges, rng.normal(size=9) * 3]))))


PLAIN_FORMS = ("normalize", "std", "var", "standardize", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "cross_entropy", "categorical_cross_entropy", "smooth_l1_loss", "relative_error_loss", "gaussian_nll_loss",
    "kl_divergence_normal", "contrastive_loss", "rpn_loss", "fast_rcnn_loss", "focal_loss 2.0", "dice_loss",
    "jaccard_loss", "iou_loss", "giou_loss", "diou_loss", "ciou_loss")  # fmt: skip
WITH_PLAIN_FORM = [case for case in ONE_REDUCTION if case.name.partition(".")[2].split(",")[0] in PLAIN_FORMS
    and "smooth" not in case.name.split(", ")[1:] and "weight" not in case.name and "soft" not in case.name
    and not any(word in case.name for word in ("beta 0", "sigma", "denominator", "all ignored", "equal"))]  # fmt: skip


def both_ways(framework: Framework, case: Case, xp: Any, monkeypatch: Any) -> None:
    """Hold the plain form of a part, which usual numbers are to be computed by, against its formula."""
    rng, n = np.random.default_rng(0), 24
    shapes = case.shapes(n)
    # Sorted, four numbers are a box; nothing is near its prior.
    arrays = [np.sort(rng.uniform(0.05, 0.95, shape), -1 if shape[1:] == (4,) else 0) for shape in shapes]
    arrays = [np.roll(x + 0.01 * i, 5 * i, 0).astype(np.float32) for i, x in enumerate(arrays)]
    choose = type(xp).choose

    def by_plain_form(self: Any, plain: Any, formula: Any, given: Any, static: Any) -> Any:
        return choose(self, plain, lambda *xs: formula(*xs) * float("nan"), given, static)

    monkeypatch.setattr(type(xp), "choose", by_plain_form)
    plain = framework.run(lambda *xs: case.call(framework, n, *xs), arrays)
    monkeypatch.setattr(type(xp), "chooses", False)
    formula = framework.run(lambda *xs: case.call(framework, n, *xs), arrays)
    for ours, theirs in zip(plain, formula, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            # The gradient of a sum of standardized numbers is 0, but for rounding.
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


# --- against mpmath -------------------------------------------------------------------------------------------------


def mp_softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x))


def mp_bce(x: Any, y: Any) -> Any:
    return mp_softplus(x) - x * y


def mp_focal(x: Any, y: Any) -> Any:
    p = 1 / (1 + mpmath.exp(-x))
    miss = p * (1 - y) + (1 - p) * y
    return (mpmath.mpf(0.25) * y + mpmath.mpf(0.75) * (1 - y)) * miss**2 * mp_bce(x, y)


def mp_kl(m: Any, v: Any) -> Any:
    return (mpmath.expm1(v) - v + m * m) / 2


def mp_nll(m: Any, t: Any, v: Any) -> Any:
    return (v + (m - t) ** 2 * mpmath.exp(-v)) / 2


def mp_huber(a: Any, b: Any) -> Any:
    d = abs(a - b)
    return d * d / 2 if d < 1 else d - mpmath.mpf(1) / 2


ELEMENT_REFERENCES: list[tuple[str, int, Callable[..., Any], Callable[..., Any], tuple[float, float]]] = [
    ("log", 1, lambda f, x: f.ops.log(x), mpmath.log, (1e-30, 1e30)),
    ("log1p", 1, lambda f, x: f.ops.log1p(x), mpmath.log1p, (-0.999, 1e30)),
    ("sqrt", 1, lambda f, x: f.ops.sqrt(x), mpmath.sqrt, (0.0, 1e30)),
    ("exp", 1, lambda f, x: f.ops.exp(x), mpmath.exp, (-80.0, 80.0)),
    ("reciprocal", 1, lambda f, x: f.ops.reciprocal(x), lambda x: 1 / x, (1e-30, 1e30)),
    ("asin", 1, lambda f, x: f.ops.asin(x), mpmath.asin, (-1.0, 1.0)),
    ("acos", 1, lambda f, x: f.ops.acos(x), mpmath.acos, (-1.0, 1.0)),
    ("div", 2, lambda f, a, b: f.ops.div(a, b), lambda a, b: a / b, (1e-15, 1e15)),
    ("atan2", 2, lambda f, a, b: f.ops.atan2(a, b), mpmath.atan2, (-1e30, 1e30)),
    ("pow 2.5", 1, lambda f, x: f.ops.pow(x, 2.5), lambda x: x ** mpmath.mpf(2.5), (1e-10, 1e10)),
    ("bce logits", 2, lambda f, x, y: f.losses.binary_cross_entropy_with_logits(x, hard(f, y), reduction="none"),
     lambda x, y: mp_bce(x, mpmath.mpf(int(y > 0))), (-60.0, 60.0)),
    ("focal", 2, lambda f, x, y: f.losses.focal_loss(x, hard(f, y), reduction="none"),
     lambda x, y: mp_focal(x, mpmath.mpf(int(y > 0))), (-30.0, 30.0)),
    ("kl", 2, lambda f, m, v: f.losses.kl_divergence_normal(m, v, reduction="none"), mp_kl, (-3.0, 3.0)),
    ("kl near the prior", 2, lambda f, m, v: f.losses.kl_divergence_normal(m, v, reduction="none"), mp_kl, (-1e-4,
    1e-4)), ("smooth l1", 2, lambda f, a, b: f.losses.smooth_l1_loss(a, b, reduction="none"), mp_huber, (-4.0, 4.0)),
]  # fmt: skip


def hard(f: Framework, y: Any) -> Any:
    """Return 1 where y is above 0, else 0, in y's own kind of array."""
    return f.hard(y) + y * 0


def close(got: np.ndarray, want: list[Any], dtype: str, ulps: float, floor: float = 0.0) -> None:
    """Raise where numbers are further than some units in the last place from those of mpmath."""
    f = info(dtype)
    for index, (x, y) in enumerate(zip(np.ravel(got).astype(np.float64), want, strict=True)):
        if abs(y) > float(f.max):
            assert abs(x) == float(f.max)
            continue
        unit = max(float(abs(y)) * float(f.eps), float(f.smallest_normal) * 4, floor)
        error = float(abs(mpmath.mpf(float(x)) - y))
        assert error <= ulps * unit, f"element {index}: {x!r} is {error / unit:.1f} units from {mpmath.nstr(y, 17)}"


def draw(rng: np.random.Generator, low: float, high: float, n: int, dtype: str) -> np.ndarray:
    """Return numbers between low and high, over all magnitudes where the range has many."""
    top = float(info(dtype).max) / 4
    low, high = max(low, -top), min(high, top)
    if high / max(abs(low), 1e-300) > 1e3 and low >= 0:
        low = max(low, float(info(dtype).smallest_normal) * 2)
        x = np.exp(rng.uniform(np.log(low), np.log(high), n))
    elif max(-low, high) > 1e3:
        x = np.exp(rng.uniform(np.log(1e-3), np.log(high), n)) * rng.choice([-1.0, 1.0], n)
        x = np.where(x < low, abs(x), x)
    else:
        x = rng.uniform(low, high, n)
    return x.astype(np_dtype(dtype))


def against_mpmath(framework: Framework, index: int, dtype: str, ulps: float = 6) -> None:
    _, count, call, reference, (low, high) = ELEMENT_REFERENCES[index]
    rng = np.random.default_rng(index)
    arrays = [draw(rng, low, high, 60, dtype) for _ in range(count)]
    results, _ = framework.run(lambda *xs: call(framework, *xs), arrays)
    exact = [[mpmath.mpf(float(value)) for value in array] for array in arrays]
    close(results[0], [reference(*items) for items in zip(*exact, strict=True)], dtype, ulps)


def row_references(framework: Framework, dtype: str) -> None:
    """Hold reductions over rows of very different sizes against mpmath."""
    rng = np.random.default_rng(1)
    wide = dtype in ("float32", "float64", "bfloat16")
    scales = [1.0, 1e-3, 1e30, 1e-30] if wide else [1.0, 1e-3, 1e2]
    x = np.stack([rng.normal(size=7) * scale for scale in scales]).astype(np_dtype(dtype))
    exact = [[mpmath.mpf(float(value)) for value in row] for row in x]

    def run(call: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
        return framework.run(call, arrays)[0][0]

    def deviation(row: list[Any]) -> Any:
        middle = mpmath.fsum(row) / len(row)
        return mpmath.sqrt(mpmath.fsum((v - middle) ** 2 for v in row) / (len(row) - 1))

    norms = [mpmath.sqrt(mpmath.fsum(v * v for v in row)) for row in exact]
    close(run(lambda v: framework.ops.norm(v, 1), x), norms, dtype, 6)
    close(run(lambda v: framework.ops.std(v, 1, correction=1), x), [deviation(row) for row in exact], dtype, 8)
    units = [v / norm for row, norm in zip(exact, norms, strict=True) for v in row]
    close(run(lambda v: framework.ops.normalize(v, 1), x), units, dtype, 6)
    few = x[:2]
    sums = [mpmath.log(mpmath.fsum(mpmath.exp(v) for v in row)) for row in exact[:2]]
    close(run(lambda v: framework.ops.logsumexp(v, 1), few), sums, dtype, 8)
    # Confident and lost predictions alike.
    logits = np.array([[30.0, 0.0, 1.0, -2.0], [0.0, 9.0, 1.0, 2.0], [-60.0, 3.0, 0.0, 0.5]]).astype(np_dtype(dtype))
    got = run(
        lambda v: framework.losses.cross_entropy(v, framework.array(np.zeros(3, np.int64)), reduction="none"), logits
    )
    want = []
    for row in logits:
        values = [mpmath.mpf(float(v)) for v in row]
        want.append(mpmath.log1p(mpmath.fsum(mpmath.exp(v - values[0]) for v in values[1:])))
    close(got, want, dtype, 8)
    boxes = np.array([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 4.0, 5.0], [0.0, 0.0, 1.0, 1.0]]).astype(np_dtype(dtype))
    others = np.array([[1.0, 1.0, 3.0, 4.0], [1.0, 1.0, 4.0, 5.0], [5.0, 5.0, 6.0, 8.0]]).astype(np_dtype(dtype))
    for name in ("iou", "giou", "diou", "ciou"):
        got = run(
            lambda a, b, name=name: getattr(framework.losses, f"{name}_loss")(a, b, reduction="none"), boxes, others
        )
        close(got, [mp_box(name, a, b) for a, b in zip(boxes, others, strict=True)], dtype, 6, float(info(dtype).eps))


def mp_box(kind: str, a: np.ndarray, b: np.ndarray) -> Any:
    a, b = ([mpmath.mpf(float(v)) for v in box] for box in (a, b))
    width, height = max(min(a[2], b[2]) - max(a[0], b[0]), 0), max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    loss = 1 - width * height / union
    hull = (max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1]))
    if kind == "giou":
        loss += (hull[0] * hull[1] - union) / (hull[0] * hull[1])
    if kind in ("diou", "ciou"):
        apart = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in range(2))
        loss += apart / (hull[0] ** 2 + hull[1] ** 2)
    if kind == "ciou":
        turns = [mpmath.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
        v = 4 / mpmath.pi**2 * (turns[1] - turns[0]) ** 2
        loss += v * v / (1 - width * height / union + v) if v else 0
    return loss


def migration(title: str, array: Callable[[np.ndarray], Any], back: Callable[[Any], np.ndarray], **names: Any) -> None:
    """Hold both sides of each line of the migration page against each other, for one framework."""
    page = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| `(.+?)` \| `(.+?)` \|", page.partition(f"### {title}\n")[2].partition("\n### ")[0], re.M)
    assert len(lines) >= 4
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.normal(size=(5, 4)), "y": rng.random((5, 4)).round(), "p": rng.uniform(0.1, 0.9, (5, 4)),
        "q": rng.uniform(0.5, 1.5, (5, 4)),
    }  # fmt: skip
    names |= {name: array(value.astype(np.float32)) for name, value in arrays.items()}
    names |= {"labels": array(np.array([0, 3, 1, 2, 0], np.int32)), "mask": array(np.arange(20).reshape(5, 4) % 3 > 0)}
    names["gradients"] = (names["x"], names["p"])
    for line in lines:
        left, right = (eval(code, dict(names)) for code in line)
        for one, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (left, right)), strict=True):
            np.testing.assert_allclose(back(one), back(other), rtol=1e-4, atol=2e-5, err_msg=line[1])
