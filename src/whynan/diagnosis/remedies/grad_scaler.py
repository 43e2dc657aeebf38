from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class GradScaler(Remedy):
    """Multiply the loss by a large number before the backward pass and divide the gradients by it after, so that small
    gradients survive float16. The scaler skips a step whose gradients overflow and lowers its scale.

    Code:
        scaler = torch.amp.GradScaler()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)                       # before clipping
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    """

    slug = "grad-scaler"
    title = "a gradient scaler"

    def where(self, evidence: Evidence) -> str | None:
        return None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        return "scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()"
