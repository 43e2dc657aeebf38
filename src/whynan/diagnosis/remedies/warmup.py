from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class Warmup(Remedy):
    """Let the learning rate rise from a hundredth to its full value over the first hundreds of steps. Helps where the
    first steps are what breaks: fresh weights, empty optimizer state, normalisation without statistics.

    Code:
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=500)
        ...
        optimizer.step()
        warmup.step()
        from whynan.torch.schedules import warmup_cosine   # warmup_cosine(optimizer, 500, total_steps)
    """

    slug = "warmup"
    title = "warm the learning rate up"

    def where(self, evidence: Evidence) -> str | None:
        source = evidence.optimizer.source if evidence.optimizer else None
        return f"{source.file}:{source.line}" if source and source.file and source.line else None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        return "warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=500)"
