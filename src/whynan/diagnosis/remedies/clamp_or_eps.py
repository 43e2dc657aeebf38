from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import replace_divisor, replace_power_base, wrap_argument
from whynan.records import Evidence

# Added under a root this changes distances below 1e-6 only; half precision has no smaller number than 6e-8.
UNDER_ROOT = {"float16": "1e-4", "bfloat16": "1e-6"}
FOR_LOG = {"float16": "1e-4"}
NUMPY = ("np", "numpy")


class ClampOrEps(Remedy):
    """Clamp the argument to where the function is finite, or add a small number to it: under a root and in a divisor
    add, under a logarithm and in acos clamp. The number must exist in the dtype: 1e-8 is 0 in float16.

    Code:
        torch.log(p.clamp(min=1e-7))
        torch.sqrt(x + 1e-12)
        a / (b + 1e-8)
        torch.acos(c.clamp(-1 + 1e-6, 1 - 1e-6))
        from whynan.torch import ops   # the same without a number to choose: log, sqrt, div, pow, norm, std, acos
        ops.log(p); ops.sqrt(x); ops.div(a, b); ops.acos(c)
    """

    slug = "clamp-or-eps"
    title = "clamp the argument or add an eps"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        code = evidence.origin.source.code if evidence.origin else None
        op, dtype = facts.op_of(evidence), facts.dtype_of(evidence)
        small, tiny = FOR_LOG.get(dtype, "1e-7"), UNDER_ROOT.get(dtype, "1e-12")
        if op in ("log", "log2", "log10", "logit", "xlogy"):
            return wrap_argument(code, ("log", "log2", "log10", "logit"), lambda x, owner: at_least(x, owner, small))
        if op == "log1p":
            return wrap_argument(code, ("log1p",), lambda x, owner: at_least(x, owner, f"-1 + {small}"))
        if op in ("acos", "asin", "atanh", "erfinv"):
            names = ("acos", "asin", "atanh", "arccos", "arcsin", "arctanh", "erfinv")
            return wrap_argument(code, names, lambda x, owner: between(x, owner))
        if op in ("sqrt", "rsqrt"):
            if facts.is_forward(evidence) and any(t.n_negative for t in facts.inputs(evidence)):
                return wrap_argument(code, ("sqrt", "rsqrt"), lambda x, owner: at_least(x, owner, tiny))
            return wrap_argument(code, ("sqrt", "rsqrt"), lambda x, owner: f"{x} + {tiny}")
        if op == "exp":
            limit = "10" if dtype == "float16" else "80"
            return wrap_argument(code, ("exp",), lambda x, owner: at_most(x, owner, limit))
        if op == "pow":
            return replace_power_base(code, lambda x: f"{x} + {tiny}")
        if op in ("norm", "std", "cdist"):
            return self.patch_norm(code, op, tiny)
        if op in ("div", "reciprocal"):
            return replace_divisor(code, lambda x: f"{x} + {'1e-4' if dtype == 'float16' else '1e-8'}")
        return None

    def patch_norm(self, code: str | None, op: str, tiny: str) -> str | None:
        """A norm or a spread is rewritten by hand, with the eps under its root; only the plain forms are."""
        if op == "norm":
            return wrap_argument(code, ("norm", "vector_norm"), lambda x, owner: f"{x} + {tiny}")
        return None


def at_least(x: str, owner: str, low: str) -> str:
    return f"{owner}.maximum({x}, {low})" if owner in NUMPY else f"{x}.clamp(min={low})"


def at_most(x: str, owner: str, high: str) -> str:
    return f"{owner}.minimum({x}, {high})" if owner in NUMPY else f"{x}.clamp(max={high})"


def between(x: str, owner: str) -> str:
    return f"{owner}.clip({x}, -1 + 1e-6, 1 - 1e-6)" if owner in NUMPY else f"{x}.clamp(-1 + 1e-6, 1 - 1e-6)"
