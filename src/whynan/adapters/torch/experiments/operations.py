"""Remedies at the origin's own line: the operation guarded, in its stable form, in a wider dtype, mended.

For stable-loss a mode remembers which tensor is the softmax, sigmoid or exponential of which, and rewrites the few
patterns in which that matters: log(softmax(z)), log(sigmoid(z)), log(1 - sigmoid(z)), log(sum(exp(z))),
log(1 + exp(z)), exp(z) / sum(exp(z)), and the framework's losses on probabilities.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments import clamp, guards
from whynan.adapters.torch.experiments.batches import FiniteBuffers, guarded_data
from whynan.adapters.torch.experiments.change import (
    AutogradsOwn,
    Change,
    FiniteBackward,
    GuardMode,
    Place,
    WholeStep,
    WiderOp,
    anywhere,
    at_line,
    function_called,
    in_class,
    in_function,
)
from whynan.adapters.torch.experiments.guards import EXP_LIMIT, Call, Guard, eps_of, is_floating, plain_name
from whynan.adapters.torch.frames import op_frame
from whynan.adapters.torch.samples import SampleSearch
from whynan.diagnosis import facts
from whynan.records import Evidence

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


@dataclass(frozen=True)
class Made:
    """How a tensor was made: `kind` of `z`, over `dim` where that matters."""

    kind: str
    z: Any
    dim: Any = None


_MOVES = ("squeeze", "unsqueeze", "reshape", "view", "flatten", "gather", "__getitem__", "clamp", "clamp_min", "clip")


class StableMode(TorchFunctionMode):  # type: ignore[misc]
    """While entered, losses are computed in their stable forms. `takes_logits`: what a logarithm gets at the origin's
    line was never made a probability; it is taken for logits there. `shifts`: an exponential at that line is too."""

    def __init__(self, place: Place, takes_logits: bool = False, shifts: bool = True) -> None:
        super().__init__()
        self.place = place
        self.takes_logits = takes_logits
        self.shifts = shifts
        self.n_applied = 0
        self.parts: set[str] = set()
        self._made: dict[int, tuple[Any, Made]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, in_place = plain_name(func)
        if not args or in_place or not any(isinstance(arg, torch.Tensor) for arg in args):
            return func(*args, **kwargs)
        result = self._rewritten(func, name, args, kwargs)
        if result is not None:
            self.n_applied += 1
            if name == "exp":  # shifted: what its sum and logarithm are made of is the argument itself
                self._made[id(result)] = (result, Made("exp", args[0]))
            return result
        out = func(*args, **kwargs)
        made = self._note(name, args, kwargs, func)
        if made is not None and isinstance(out, torch.Tensor):
            self._made[id(out)] = (out, made)
        return out

    def _of(self, value: Any) -> Made | None:
        known = self._made.get(id(value))
        return known[1] if known is not None and known[0] is value else None

    def _note(self, name: str, args: Any, kwargs: Any, func: Any) -> Made | None:
        x = args[0]
        if name in ("softmax", "sigmoid", "exp", "log_softmax", "expit", "special_expit") and is_floating(x):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if name == "exp":
                inner = self._of(x)
                if inner is not None and inner.kind == "negated":
                    return Made("exp", x)
            return Made("sigmoid" if "expit" in name else name, x, dim)
        known = self._of(x) if isinstance(x, torch.Tensor) else None
        other = args[1] if len(args) > 1 else None
        if name in ("rsub", "sub"):
            subtrahend = self._of(x) if name == "rsub" else self._of(other)
            one = other if name == "rsub" else x
            if subtrahend is not None and subtrahend.kind in ("sigmoid", "softmax") and _is_one(one):
                return Made(f"1-{subtrahend.kind}", subtrahend.z, subtrahend.dim)
        if name == "add" and known is None and isinstance(other, torch.Tensor):
            known, other = self._of(other), x
        if known is None:
            return None
        if name == "add" and known.kind == "exp" and _is_one(other):
            return Made("1+exp", known.z)
        if name == "add" and isinstance(other, float) and abs(other) < 1e-3:
            return known  # an eps
        if name == "sum" and known.kind == "exp":
            dim = kwargs.get("dim", other)
            return Made("sum-exp", known.z, (dim, bool(kwargs.get("keepdim", args[2] if len(args) > 2 else False))))
        if name in _MOVES and known.kind in ("softmax", "sigmoid", "1-sigmoid"):
            return self._moved(known, name, func, args, kwargs)
        return None

    def _moved(self, known: Made, name: str, func: Any, args: Any, kwargs: Any) -> Made | None:
        """The same rows of the logits; a clamp of probabilities is not needed any more."""
        if name in ("clamp", "clamp_min", "clip"):
            return known
        if known.kind == "softmax":
            logs = F.log_softmax(known.z, dim=-1 if known.dim is None else known.dim)
            return Made("probability", func(logs, *args[1:], **kwargs))
        return Made(known.kind, func(known.z, *args[1:], **kwargs))

    def _rewritten(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        x = args[0]
        known = self._of(x)
        if name == "log" and known is not None:
            return _log_of(known)
        if name == "log" and self.takes_logits and is_floating(x) and self.place(op_frame(sys._getframe(2))):
            return F.logsigmoid(x)
        if name == "logdet" and self.place(op_frame(sys._getframe(2))):
            return torch.linalg.slogdet(x).logabsdet
        if name == "log1p" and known is not None and known.kind == "exp":
            return F.softplus(known.z)
        if name == "div" and known is not None and known.kind == "exp":
            divisor = self._of(args[1])
            if divisor is not None and divisor.kind == "sum-exp" and divisor.z is known.z:
                dims = divisor.dim[0]
                if isinstance(dims, int):
                    return torch.softmax(known.z, dim=dims)
        if name == "binary_cross_entropy":
            logits = known.z if known is not None and known.kind == "sigmoid" else None
            if logits is None and self.takes_logits:
                logits = x
            if logits is not None:
                return self._by(guards.binary_cross_entropy_with_logits(logits), func, name, args, kwargs)
        if name == "kl_div" and self.takes_logits and not kwargs.get("log_target") and bool((args[1] < 0).any()):
            return func(x, torch.softmax(args[1], dim=-1), *args[2:], **kwargs)
        if name == "nll_loss":
            return self._nll(known, func, args, kwargs)
        if name == "ctc_loss" and not kwargs.get("zero_infinity"):
            return self._by(guards.ctc_loss, func, name, args, kwargs)
        if name == "poisson_nll_loss" and is_floating(x):
            return self._poisson(func, x, args, kwargs)
        if name == "exp" and self.shifts and is_floating(x) and self.place(op_frame(sys._getframe(2))):
            return self._shifted(x)
        return None

    def _by(self, part: Guard, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The part's result in the place of the call's, and a note of the part."""
        result = part(Call(func, name, tuple(args), kwargs))
        self.parts |= {part.part} if result is not None else set()  # type: ignore[attr-defined]
        return result

    def _nll(self, known: Made | None, func: Any, args: Any, kwargs: Any) -> Any:
        """nll_loss wants log-probabilities: probabilities or plain scores are what it is often given."""
        if known is not None and known.kind == "softmax":
            return func(F.log_softmax(known.z, dim=1 if known.dim is None else known.dim), *args[1:], **kwargs)
        if known is None and self.takes_logits:
            return func(F.log_softmax(args[0], dim=1), *args[1:], **kwargs)
        return None

    def _poisson(self, func: Any, x: Any, args: Any, kwargs: Any) -> Any:
        """Rates must be positive; their logarithms, which a layer without an activation gives, need not be."""
        log_input = args[2] if len(args) > 2 else kwargs.get("log_input", True)
        if not log_input and self.takes_logits:
            return func(x, args[1], True, *args[3:], **_without(kwargs, "log_input"))
        limit = eps_of(x, EXP_LIMIT)
        return func(x.clamp(max=limit), *args[1:], **kwargs) if log_input and self._is_exploding(x, limit) else None

    def _is_exploding(self, x: Any, limit: float) -> bool:
        return x.numel() > 0 and float(x.detach().max()) > limit

    def _shifted(self, x: Any) -> Any:
        """An exponential at the origin's line: nothing is shifted by more than the dtype needs to hold its sum."""
        limit = eps_of(x, EXP_LIMIT)
        if not self._is_exploding(x, limit):
            return None
        return torch.exp(x.clamp(max=limit))


def _log_of(made: Made) -> Any:
    if made.kind == "softmax":
        return F.log_softmax(made.z, dim=-1 if made.dim is None else made.dim)
    if made.kind == "probability":
        return made.z
    if made.kind == "sigmoid":
        return F.logsigmoid(made.z)
    if made.kind == "1-sigmoid":
        return F.logsigmoid(-made.z)
    if made.kind == "1-softmax":
        dim = -1 if made.dim is None else made.dim
        return torch.log1p(-torch.softmax(made.z, dim).clamp(max=1 - 1e-6))
    if made.kind == "sum-exp":
        dims, keepdim = made.dim
        over = tuple(range(made.z.dim())) if dims is None else dims
        return torch.logsumexp(made.z, dim=over, keepdim=keepdim)
    if made.kind == "1+exp":
        return F.softplus(made.z)
    return made.z if made.kind == "exp" else None


def _is_one(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and float(value) == 1.0
    return isinstance(value, (int, float)) and value == 1


def _without(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in names}


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
    place, own = _place(traced), _narrowed(guards.OPS, evidence)
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
        yield from _guarded("double-where", words, guards.DOUBLE_WHERE, evidence, place)
    elif facts.hides_missing(evidence) and traced.slice is not None and traced.slice.path:
        frame = next((f for record in traced.slice.path for f in record.stack[:1]), None)
        if frame is not None:
            words = "missing values out of the computation before it, and not after"
            yield Change("double-where", words, GuardMode(guards.MISSING, in_function(frame)))


def skip_empties(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield 0 where there is nothing to reduce over."""
    place = _place(traced)
    if place is not None and not facts.is_optimizer(evidence):
        words = "a loss of 0 where there is nothing to learn from"
        yield Change("skip-empty", words, GuardMode(guards.SKIP_EMPTY, place))
        record = traced.slice.origin if traced.slice is not None else None
        for frame in record.stack[1:3] if record is not None else ():
            yield Change("skip-empty", words, GuardMode(guards.SKIP_EMPTY, at_line(frame)))
        yield from _alike("skip-empty", guards.SKIP_EMPTY, traced, evidence)


def mask_fix(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield masks of finite numbers, everywhere in the step."""
    words = "masked with the dtype's lowest finite number in place of -inf"
    yield Change("mask-fix", words, GuardMode(guards.MASK_FIX, anywhere, guards.MASKS_ANYWHERE))


def stable_loss(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
    """Yield the losses of the step in their stable forms; then with what the logarithm got taken for logits."""
    place = _place(traced) or (lambda frame: False)
    mode = StableMode(place, shifts=facts.is_normalised(evidence))
    is_logdet = facts.op_of(evidence) == "logdet"
    yield Change("stable-loss", "log|det| by slogdet" if is_logdet else "the loss computed from its logits", mode)
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
    place = _place(traced)
    if place is not None and not facts.is_optimizer(evidence):
        words = f"eps={clamp.EPS:g} in the normalisation"
        yield Change("larger-eps", words, GuardMode(clamp.LARGER_EPS, place))
        guards = {name: clamp.GUARDS[name] for name in ("div", "sqrt", "rsqrt", "std", "var", "norm", "pow")}
        yield Change("larger-eps", "an eps under the root and in the divisor", GuardMode(guards, place))


def group_norm(plan: "Plan", traced: "Outcome", evidence: Evidence) -> Iterator[Change]:
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
