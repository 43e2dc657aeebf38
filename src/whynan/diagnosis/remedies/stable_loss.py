"""stable-loss: the same loss, computed from the logits."""

import ast

from whynan.diagnosis.remedy import Remedy
from whynan.diagnosis.rewrite import argument_of, calls, name_of, parse, replaced, text_of
from whynan.records.evidence import Evidence

# loss on probabilities -> the same on logits
ON_LOGITS = {
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
    "BCELoss": "BCEWithLogitsLoss",
    "nll_loss": "cross_entropy",
    "NLLLoss": "CrossEntropyLoss",
}


class StableLoss(Remedy):
    """Use the form of the loss that takes logits and never makes a probability that can be rounded to 0 or 1:
    log-softmax for log(softmax), logsigmoid for log(sigmoid), logsumexp for log(sum(exp)), `..._with_logits`; CTC
    with `zero_infinity=True`. Same value, finite for every finite input.

    Code:
        F.binary_cross_entropy_with_logits(logit, y)   # not F.binary_cross_entropy(torch.sigmoid(logit), y)
        torch.log_softmax(logit, dim=1)                # not torch.log(torch.softmax(logit, dim=1))
        F.logsigmoid(-logit)                           # not torch.log(1 - torch.sigmoid(logit))
        from whynan.torch.losses import binary_cross_entropy_with_logits, cross_entropy, ctc_loss
    """

    slug = "stable-loss"
    title = "the stable form of the loss (from logits)"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        code = evidence.origin.source.code if evidence.origin else None
        parsed = parse(code)
        if parsed is None:
            return None
        line, tree = parsed
        return log_of_probability(line, tree) or loss_on_logits(line, tree) or in_words(line, tree, evidence)


def log_of_probability(line: str, tree: ast.AST) -> str | None:
    """Return the line with log(softmax(z)), log(sigmoid(z)) or log(sum(exp(z))) as one function."""
    for call in calls(tree, "log"):
        inner = argument_of(call)
        if not isinstance(inner, ast.Call):
            continue
        argument = argument_of(inner)
        if argument is None:
            continue
        z = text_of(line, argument)
        kind = name_of(inner)
        rest = "".join(f", {ast.unparse(given)}" for given in [*inner.args, *inner.keywords] if given is not argument)
        if kind == "softmax":
            return replaced(line, call, f"torch.log_softmax({z}{rest})")
        if kind == "sigmoid":
            return replaced(line, call, f"F.logsigmoid({z})")
        if kind == "sum" and isinstance(argument, ast.Call) and name_of(argument) == "exp":
            under = argument_of(argument)
            if under is not None:
                return replaced(line, call, f"torch.logsumexp({text_of(line, under)}{rest})")
    return None


def loss_on_logits(line: str, tree: ast.AST) -> str | None:
    """Return the line with a loss on probabilities replaced by the one on logits."""
    for call in calls(tree, *ON_LOGITS):
        owner = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        new = f"{owner}{ON_LOGITS[name_of(call)]}"
        first = call.args[0] if call.args else None
        changed = line
        if isinstance(first, ast.Call) and name_of(first) in ("sigmoid", "softmax", "log_softmax"):
            logit = argument_of(first)
            if logit is not None:
                # From right to left, so that the columns of what stands before stay right.
                changed = replaced(changed, first, text_of(line, logit))
        return replaced(changed, call.func, new)
    return None


def in_words(line: str, tree: ast.AST, evidence: Evidence) -> str | None:
    """Return a hint as code where the probability was made on an earlier line."""
    op = evidence.origin.op if evidence.origin else ""
    if op == "exp":
        for call in calls(tree, "exp"):
            argument = argument_of(call)
            if argument is not None:
                x = text_of(line, argument)
                simple = isinstance(argument, (ast.Name, ast.Attribute))
                shifted = f"{x} - {x}.amax(-1, keepdim=True)" if simple else None
                return replaced(line, argument, shifted) if shifted and call.args else None
    if "ctc" in op:
        return "ctc_loss(..., zero_infinity=True)"
    if not op.startswith("log"):
        return None
    for call in calls(tree, "log"):
        argument = argument_of(call)
        if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Sub) and is_one(argument.left):
            return (
                replaced(line, call, "F.logsigmoid(-logit)") + f"  # {text_of(line, argument.right)} = sigmoid(logit)"
            )
    return None


def is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (1, 1.0)
