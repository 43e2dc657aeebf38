from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import replace_divisor, wrap_argument
from whynan.records import Evidence


class DoubleWhere(Remedy):
    """Replace the argument where it is bad by a harmless number *before* the function, and choose the result by the
    same condition after it. Then the branch that was not taken has a finite slope, and 0 times it is 0.

    Code:
        ok = x > 0
        safe = torch.where(ok, x, 1.0)
        y = torch.where(ok, torch.log(safe), 0.0)
        from whynan.torch import ops   # has this inside: ops.log, ops.sqrt, ops.div, ops.norm, ops.acos
    """

    slug = "double-where"
    title = "a second `where` around the argument"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        code = evidence.origin.source.code if evidence.origin else None
        op = facts.op_of(evidence)
        if facts.is_data(evidence):
            # A dataset's transform may be NumPy or plain Python; there a slope is of no interest either.
            return None
        if op in ("log", "log2", "log10", "sqrt", "rsqrt"):
            return wrap_argument(code, ("log", "log2", "log10", "sqrt", "rsqrt"), lambda x, owner: positive(x, owner))
        if op in ("acos", "asin"):
            return wrap_argument(code, ("acos", "asin", "arccos", "arcsin"),
                                 lambda x, owner: f"{owner or 'torch'}.where({x}.abs() < 1, {x}, 0.0)")  # fmt: skip
        if op in ("div", "reciprocal"):
            return replace_divisor(code, lambda x: f"torch.where({x} != 0, {x}, 1.0)")
        return None


def positive(x: str, owner: str) -> str:
    return f"{owner or 'torch'}.where({x} > 0, {x}, 1.0)"
