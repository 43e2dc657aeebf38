import ast

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import calls, is_method, parse, replaced, set_keyword, text_of
from whynan.records import Evidence


class SkipEmpty(Remedy):
    """Where nothing is selected, let the loss be 0: sum and divide by the count, at least 1. Exactly the mean in all
    other cases, and the gradient is 0 where there is nothing to learn from.

    Code:
        loss = error[mask].sum() / mask.sum().clamp(min=1)
        loss = F.cross_entropy(out, y, ignore_index=-100, reduction="sum") / (y != -100).sum().clamp(min=1)
        from whynan.torch.losses import cross_entropy   # is 0 where no label counts
        from whynan.torch.ops import masked_mean        # is 0 where nothing is selected
    """

    slug = "skip-empty"
    title = "a loss of 0 where there is nothing to learn from"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        code = evidence.origin.source.code if evidence.origin else None
        parsed = parse(code)
        if parsed is None:
            return None
        line, tree = parsed
        op = facts.op_of(evidence)
        if op in ("nll_loss", "cross_entropy"):
            return cross_entropy(line, tree)
        if op == "mean":
            for call in calls(tree, "mean"):
                # Only what reads the same without brackets: x[mask].mean(), error.mean()
                plain = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, (ast.Subscript, ast.Name))
                if plain and is_method(call) and isinstance(call.func, ast.Attribute) and not call.args:
                    x = text_of(line, call.func.value)
                    return replaced(line, call, f"{x}.sum() / max({x}.numel(), 1)")
        return None


def cross_entropy(line: str, tree: ast.AST) -> str | None:
    """Return the line with the mean written as a sum over the number of targets that count."""
    for call in calls(tree, "cross_entropy", "nll_loss"):
        if len(call.args) < 2 or any(given.arg == "reduction" for given in call.keywords):
            continue
        ignore = next((ast.unparse(given.value) for given in call.keywords if given.arg == "ignore_index"), "-100")
        target = call.args[1]
        y = text_of(line, target)
        summed = set_keyword(text_of(line, call), "reduction", '"sum"')
        if summed is not None:
            return replaced(line, call, f"{summed} / ({y} != {ignore}).sum().clamp(min=1)")
    return None
