from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import set_keyword
from whynan.records import Evidence


class LargerEps(Remedy):
    """Give the optimizer or the normalisation layer an eps that exists in the dtype it computes in: 1e-8 for float32,
    1e-4 for float16; for a normalisation 1e-5. Under the root, not behind it.

    Code:
        torch.optim.Adam(model.parameters(), eps=1e-8)
        nn.LayerNorm(256, eps=1e-5)
    """

    slug = "larger-eps"
    title = "a larger eps"

    def where(self, evidence: Evidence) -> str | None:
        source = evidence.optimizer.source if evidence.optimizer else None
        if facts.is_optimizer(evidence) and source and source.file and source.line:
            return f"{source.file}:{source.line}"
        return facts.place(evidence)

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        half = facts.dtype_of(evidence) == "float16"
        optimizer = evidence.optimizer
        if cause == "optimizer-epsilon" or facts.is_optimizer(evidence):
            value = "1e-4" if half or evidence.precision.parameters == "float16" else "1e-8"
            if optimizer is None:  # the script's own update: the eps belongs where it divides
                return None
            code = optimizer.source.code if optimizer.source else None
            changed = set_keyword(code, "eps", value) if code and "eps" in code else None
            return changed or f"torch.optim.{optimizer.name}(..., eps={value})"
        origin = evidence.origin
        if origin is not None and origin.module_type:
            return f"nn.{origin.module_type}(..., eps={'1e-3' if half else '1e-5'})"
        return None
