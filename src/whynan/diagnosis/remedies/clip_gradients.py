import math
from statistics import median

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class ClipGradients(Remedy):
    """Scale the gradient down to a given norm before the optimizer's step. Bounds a single huge gradient; a gradient
    that is NaN already is not mended by it.

    Code:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        from whynan.torch.clip import clip_by_global_norm   # leaves a NaN where it is, and the others whole
    """

    slug = "clip-gradients"
    title = "clip the gradient norm"

    def where(self, evidence: Evidence) -> str | None:
        return None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        # The norm of the healthy steps is the natural bound; early ones, since later ones belong to the growth.
        norms = [norm for norm in evidence.history.grad_norm if math.isfinite(norm) and norm > 0]
        bound = median(norms[: max(1, min(20, len(norms) // 5))]) if len(norms) >= 5 else 1.0
        bound = min(max(bound, 0.1), 10.0)
        return (f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={facts.number(round(bound, 2))})"
                "  # before optimizer.step()")  # fmt: skip
