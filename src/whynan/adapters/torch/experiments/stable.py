"""stable-loss: logarithms of probabilities are taken from the logits that the probabilities were made of.

The mode remembers which tensor is the softmax, sigmoid or exponential of which, and rewrites the few patterns in which
that matters: log(softmax(z)), log(sigmoid(z)), log(1 - sigmoid(z)), log(sum(exp(z))), log(1 + exp(z)),
exp(z) / sum(exp(z)), and the framework's losses on probabilities.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from whynan.adapters.torch.experiments.guarded import Place
from whynan.adapters.torch.experiments.guards import parts
from whynan.adapters.torch.experiments.guards.parts import EXP_LIMIT, Call, Guard, eps_of, is_floating, plain_name
from whynan.adapters.torch.frames import op_frame


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
                return self._by(parts.binary_cross_entropy_with_logits(logits), func, name, args, kwargs)
        if name == "kl_div" and self.takes_logits and not kwargs.get("log_target") and bool((args[1] < 0).any()):
            return func(x, torch.softmax(args[1], dim=-1), *args[2:], **kwargs)
        if name == "nll_loss":
            return self._nll(known, func, args, kwargs)
        if name == "ctc_loss" and not kwargs.get("zero_infinity"):
            return self._by(parts.ctc_loss, func, name, args, kwargs)
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
