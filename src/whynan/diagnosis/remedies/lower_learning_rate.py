import re

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import set_keyword
from whynan.records import Evidence


class LowerLearningRate(Remedy):
    """Divide the learning rate by 3 to 10, from a state before the growth began. Where weight decay is what overshoots,
    its product with the learning rate must stay well below 1.

    Code:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)   # was 0.1
        from whynan.torch.schedules import lr_range_test   # its .suggestion is a learning rate to start from
    """

    slug = "lower-learning-rate"
    title = "a lower learning rate"

    def where(self, evidence: Evidence) -> str | None:
        source = evidence.optimizer.source if evidence.optimizer else None
        return f"{source.file}:{source.line}" if source and source.file and source.line else None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        optimizer = evidence.optimizer
        if optimizer is None:
            return None
        if cause == "excessive-regularization" and optimizer.weight_decay and optimizer.lr:
            keyword, value = "weight_decay", min(1e-4, 0.01 / optimizer.lr)
        elif optimizer.momentum is not None and optimizer.momentum >= 1:
            keyword, value = "momentum", 0.9
        else:
            lr = max(evidence.history.lr, default=0.0) or optimizer.lr
            if not lr:
                return None
            keyword, value = "lr", lr / 10
        code = optimizer.source.code if optimizer.source else None
        if code and keyword == "lr" and re.search(r"\blearning_rate\s*=", code):
            keyword = "learning_rate"
        # The line has the keyword or it is not touched: a positional lr would get a second value.
        if code and f"{keyword}=" in code.replace(" ", ""):
            changed = set_keyword(code, keyword, facts.number(value))
            if changed:
                return changed
        called = re.search(rf"[\w.]*\b{re.escape(optimizer.name)}(?=\()", code or "")
        return f"{called.group() if called else 'torch.optim.' + optimizer.name}(..., {keyword}={facts.number(value)})"
