from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import parse, wrap_argument
from whynan.records import Evidence


class FullPrecision(Remedy):
    """Compute the operation in float32 (or in bfloat16, which has float32's range), and the rest as before. Losses,
    norms, exponentials and long sums belong there. In float32 already: float64 for this one operation.

    Code:
        with torch.autocast("cuda", enabled=False):
            loss = criterion(logits.float(), target)
    """

    slug = "full-precision"
    title = "compute this operation in full precision"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        if facts.is_optimizer(evidence):
            return "model.float()  # parameters and optimizer state in float32; autocast for the forward pass"
        code = evidence.origin.source.code if evidence.origin else None
        cast = "float" if facts.runs_in_half(evidence) else "double"
        wrapped = wrap_argument(code, (facts.op_of(evidence),), lambda x, owner: f"{x}.{cast}()")
        if wrapped is not None and evidence.precision.autocast is None:
            return wrapped
        if evidence.precision.autocast is not None:
            device = "cpu" if code and '"cpu"' in code else "cuda"
            line = (code or "").strip()
            inner = (
                line if line and parse(line) is not None and not line.startswith(("return", "if ", "for ")) else "..."
            )
            return f'with torch.autocast("{device}", enabled=False): {inner}  # its inputs as .float()'
        return wrapped
