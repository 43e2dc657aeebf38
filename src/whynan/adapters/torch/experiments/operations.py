"""Remedies at the origin's own line: the operation guarded, in its stable form, in a wider dtype, mended."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from whynan.adapters.torch.experiments.batches import FiniteBuffers, guarded_data
from whynan.adapters.torch.experiments.change import AutogradsOwn, Change, FiniteBackward, function_called
from whynan.adapters.torch.experiments.guarded import (
    GuardMode,
    Place,
    WholeStep,
    WiderOp,
    anywhere,
    at_line,
    in_class,
    in_function,
)
from whynan.adapters.torch.experiments.guards import clamp, double_where, mask, parts, skip_empty
from whynan.adapters.torch.experiments.guards.parts import Guard
from whynan.adapters.torch.experiments.stable import StableMode
from whynan.adapters.torch.samples import SampleSearch
from whynan.diagnosis import facts
from whynan.records.evidence import Evidence

if TYPE_CHECKING:
    from whynan.adapters.torch.attempt import Outcome
    from whynan.adapters.torch.plan import Plan

_FAMILIES: tuple[tuple[str, ...], ...] = (
    ("log", "log2", "log10", "log1p", "logit", "xlogy", "binary_cross_entropy", "lgamma", "digamma", "logdet",
     "gaussian_nll_loss"),
    ("sqrt", "rsqrt", "pow", "norm", "std", "var", "std_mean", "var_mean", "cdist", "hypot", "pairwise_distance",
     "normalize", "cosine_similarity"),
    ("div", "rdiv", "reciprocal", "remainder", "fmod", "normalize", "cosine_similarity", "std", "var"),
    ("exp", "exp2", "expm1", "cosh", "sinh", "pow", "rpow", "softmax"),
    ("acos", "asin", "atanh", "acosh", "atan2", "erfinv", "sqrt"),
    ("softmax", "log_softmax", "logsumexp", "softmin", "logcumsumexp", "scaled_dot_product_attention"),
)  # fmt: skip
_ALIKE = {"linalg_vector_norm": "norm", "mul": "mul", "native_batch_norm": "batch_norm", "true_divide": "div"}


def _place(traced: "Outcome") -> Place | None:
    """Return where the origin's operation is called by the user's code."""
    record = traced.slice.origin if traced.slice is not None else None
    if record is None or not record.stack:
        return None
    frame = record.stack[0]
    return in_class(frame, frame.file) if record.custom else at_line(frame)


def _narrowed(guards: dict[str, Guard], evidence: Evidence) -> dict[str, Guard]:
    """Return the guards of the origin's operation and of what computes the same on the user's line."""
    op = facts.op_of(evidence)
    op = _ALIKE.get(op, op)
    names = {name for family in _FAMILIES if op in family for name in family} | {op}
    return {name: guard for name, guard in guards.items() if name in names}


def _guarded(slug: str, words: str, guards: dict[str, Guard], evidence: Evidence, place: Place) -> Iterator[Change]:
    """Yield the guard of the origin's own operation, then guards of all operations on its line."""
    own = _narrowed(guards, evidence)
    if own:
        yield Change(slug, words, GuardMode(own, place))
    yield Change(slug, f"{words}, every operation of the line", GuardMode(guards, place))


def clamp_or_eps(plan: "Plan", traced: "Outcome", evidence: Evidence, search: SampleSearch) -> Iterator[Change]:
    """Yield the argument kept away from the singular point."""
    if facts.is_data(evidence):
        yield from guarded_data(plan, traced, search)
        return
    if facts.is_class_weight(evidence):
        yield Change("clamp-or-eps", "the infinite class weights 0", FiniteBuffers(plan.host.known.buffers()))
        return
    place = _place(traced)
    if place is None:
        return
    op = facts.op_of(evidence)
    yield from _guarded("clamp-or-eps", f"the argument of {op} clamped at its line", clamp.GUARDS, evidence, place)
    yield Change("clamp-or-eps", f"the argument of {op} clamped closely at its line", GuardMode(clamp.CLOSE, place))
    for near in _near(traced):
        words = f"arguments clamped at line {near.line}, where the value comes from"
        yield Change("clamp-or-eps", words, GuardMode(_narrowed_near(), at_line(near)))
    yield from _alike("clamp-or-eps", clamp.GUARDS, traced, evidence)


def _alike(slug: str, guards: dict[str, Guard], traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield the guard of the origin's operation on every line of its function: lines for x are written for y too."""
    record = traced.slice.origin if traced.slice is not None else None
    own = _narrowed(guards, evidence)
    if own and record is not None and record.stack and record.stack[0].function != "<module>":
        words = f"{facts.op_of(evidence)} guarded on every line of {record.stack[0].function}"
        yield Change(slug, words, GuardMode(own, in_function(record.stack[0])))


def part_mode(traced: "Outcome", evidence: Evidence) -> GuardMode | None:
    """Return the origin's operation, at its line, as the part of whynan that stays finite."""
    place, own = _place(traced), _narrowed(parts.OPS, evidence)
    return GuardMode(own, place) if place is not None and own else None


def _near(traced: "Outcome") -> list[Any]:
    """Return the user's frames around the origin's: the call of the function that holds its line."""
    record = traced.slice.origin if traced.slice is not None else None
    return list(record.stack[1:2]) if record is not None else []


def _narrowed_near() -> dict[str, Guard]:
    return {name: guard for name, guard in clamp.GUARDS.items() if name not in ("add", "sub", "mul", "rsub")}


def double_wheres(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield a safe argument inside, and the choice outside."""
    place = _place(traced)
    if place is not None:
        words = f"a `where` around the argument of {facts.op_of(evidence)} too"
        yield from _guarded("double-where", words, double_where.GUARDS, evidence, place)
    elif facts.hides_missing(evidence) and traced.slice is not None and traced.slice.path:
        frame = next((f for record in traced.slice.path for f in record.stack[:1]), None)
        if frame is not None:
            words = "missing values out of the computation before it, and not after"
            yield Change("double-where", words, GuardMode(double_where.MISSING, in_function(frame)))


def skip_empties(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield 0 where there is nothing to reduce over."""
    place = _place(traced)
    if place is not None and not facts.is_optimizer(evidence):
        words = "a loss of 0 where there is nothing to learn from"
        yield Change("skip-empty", words, GuardMode(skip_empty.GUARDS, place))
        record = traced.slice.origin if traced.slice is not None else None
        for frame in record.stack[1:3] if record is not None else ():
            yield Change("skip-empty", words, GuardMode(skip_empty.GUARDS, at_line(frame)))
        yield from _alike("skip-empty", skip_empty.GUARDS, traced, evidence)


def mask_fix(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield masks of finite numbers, everywhere in the step."""
    words = "masked with the dtype's lowest finite number in place of -inf"
    yield Change("mask-fix", words, GuardMode(mask.GUARDS, anywhere, mask.ANYWHERE))


def stable_loss(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield the losses of the step in their stable forms; then with what the logarithm got taken for logits."""
    place = _place(traced) or (lambda frame: False)
    mode = StableMode(place, shifts=facts.is_normalised(evidence))
    yield Change("stable-loss", "the loss computed from its logits", mode)
    if evidence.logits_as_probabilities or _is_mismatched(plan):
        words = "what the loss got taken for logits"
        yield Change("stable-loss", words, StableMode(place, takes_logits=True))
        words += ", from the first step on"
        yield Change("stable-loss", words, StableMode(place, takes_logits=True), scope="start")


def _is_mismatched(plan: "Plan") -> bool:
    """Whether the diagnosis says that a loss got what it is not made for."""
    return any(cause.slug == "loss-input-mismatch" for cause in plan.causes())


def full_precision(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield the operation in a wider dtype, then, where the step uses half precision, the step in float32."""
    place = _place(traced)
    if place is not None and not facts.is_optimizer(evidence):
        wide = "float32" if facts.runs_in_half(evidence) else "float64"
        yield Change("full-precision", f"{facts.op_of(evidence)} computed in {wide}", WiderOp(place))
    if facts.runs_in_half(evidence):
        known = plan.host.known
        mode = WholeStep(known.parameters(), known.buffers(), known.optimizers)
        yield Change("full-precision", "the step computed in float32", mode)


def larger_eps(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield a larger eps in the normalisation at the origin's line."""
    place = _place(traced)
    if place is not None and not facts.is_optimizer(evidence):
        words = f"eps={clamp.EPS:g} in the normalisation"
        yield Change("larger-eps", words, GuardMode(clamp.LARGER_EPS, place))
        guards = {name: clamp.GUARDS[name] for name in ("div", "sqrt", "rsqrt", "std", "var", "norm", "pow")}
        yield Change("larger-eps", "an eps under the root and in the divisor", GuardMode(guards, place))


def group_norm(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield group norm for batch norm at the origin's line."""
    place = _place(traced)
    if place is not None:
        words = "group norm in place of batch norm"
        yield Change("larger-batch-or-groupnorm", words, clamp.GroupNormLayers())
        yield Change("larger-batch-or-groupnorm", words, GuardMode(clamp.GROUP_NORM, place))
        yield Change("larger-batch-or-groupnorm", words, GuardMode(clamp.GROUP_NORM, anywhere))


def fix_custom_op(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield guards inside the function, autograd's own derivative of its forward, finite results of its backward."""
    name = evidence.in_custom_function
    function = function_called(name) if name else None
    place = _place(traced)
    if place is not None:
        words = "the singular operations of the function guarded"
        yield Change("fix-custom-op", words, GuardMode(clamp.GUARDS, place))
    if function is not None:
        words = f"{name}'s derivative by autograd from its forward"
        yield Change("fix-custom-op", words, AutogradsOwn(function))
        yield Change("fix-custom-op", f"{name}'s derivative 0 where it is not finite", FiniteBackward(function))
