import ast
from collections.abc import Mapping

from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.diagnosis.rewrite import argument_of, calls, name_of, parse, replaced, text_of
from whynan.records import Evidence

# loss on probabilities -> the same on logits
ON_LOGITS = {
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
    "BCELoss": "BCEWithLogitsLoss",
    "nll_loss": "cross_entropy",
    "NLLLoss": "CrossEntropyLoss",
}
SIGMOIDS = ("sigmoid", "expit")


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
        known = evidence.assigned
        return (
            log_of_probability(line, tree, known) or loss_on_logits(line, tree, known) or in_words(line, tree, evidence)
        )


def made_by(node: ast.expr | None, known: Mapping[str, str]) -> ast.Call | None:
    """Return the call that an expression is, or that the name was assigned which it is."""
    if isinstance(node, ast.Name) and node.id in known:
        parsed = parse(known[node.id])
        node = parsed[1].body[0].value if parsed is not None and is_expression(parsed[1]) else None  # type: ignore[attr-defined]
    return node if isinstance(node, ast.Call) else None


def is_expression(tree: ast.AST) -> bool:
    return isinstance(tree, ast.Module) and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


def functional(known: Mapping[str, str]) -> str:
    """Return the file's name for torch.nn.functional; the usual one where nothing is known of the file."""
    return next((name for name, module in known.items() if module == "torch.nn.functional"),
                "torch.nn.functional" if known else "F")  # fmt: skip


def log_of_probability(line: str, tree: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the line with log(softmax(z)), log(sigmoid(z)), log(1 - sigmoid(z)) or log(sum(exp(z))) as one function.

    The probability may have got a name on a line above.
    """
    changed = line
    # From right to left, so that the columns of what stands before stay right.
    for call in sorted(calls(tree, "log"), key=lambda call: -call.col_offset):
        new = as_one_function(call, known)
        changed = replaced(changed, call, new) if new is not None else changed
    return changed if changed != line else None


def as_one_function(call: ast.Call, known: Mapping[str, str]) -> str | None:
    """Return what the logarithm of a probability is, from its logits."""
    argument = argument_of(call)
    if isinstance(argument, ast.BinOp) and isinstance(argument.op, ast.Sub) and is_one(argument.left):
        inner = made_by(argument.right, known)
        z = argument_of(inner) if inner is not None and name_of(inner) in SIGMOIDS else None
        return f"{functional(known)}.logsigmoid(-{in_brackets(z)})" if z is not None else None
    inner = made_by(argument, known)
    z = argument_of(inner) if inner is not None else None
    if inner is None or z is None:
        return None
    kind = name_of(inner)
    rest = "".join(f", {ast.unparse(given)}" for given in [*inner.args, *inner.keywords] if given is not z)
    if kind == "softmax":
        return f"torch.log_softmax({ast.unparse(z)}{rest})"
    if kind in SIGMOIDS:
        return f"{functional(known)}.logsigmoid({ast.unparse(z)})"
    under = argument_of(z) if kind == "sum" and isinstance(z, ast.Call) and name_of(z) == "exp" else None
    return f"torch.logsumexp({ast.unparse(under)}{rest})" if under is not None else None


def in_brackets(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)) else f"({text})"


def loss_on_logits(line: str, tree: ast.AST, known: Mapping[str, str]) -> str | None:
    """Return the line with a loss on probabilities replaced by the one on logits."""
    for call in calls(tree, *ON_LOGITS):
        owner = f"{ast.unparse(call.func.value)}." if isinstance(call.func, ast.Attribute) else ""
        new = f"{owner}{ON_LOGITS[name_of(call)]}"
        first = call.args[0] if call.args else None
        changed = line
        made = made_by(first, known)
        if first is not None and made is not None and name_of(made) in (*SIGMOIDS, "softmax", "log_softmax"):
            logit = argument_of(made)
            if logit is not None:
                # From right to left, so that the columns of what stands before stay right.
                changed = replaced(changed, first, ast.unparse(logit))
        return replaced(changed, call.func, new)
    return None


def in_words(line: str, tree: ast.AST, evidence: Evidence) -> str | None:
    """Return a hint as code where the probability was made on an earlier line."""
    op = evidence.origin.op if evidence.origin else ""
    if op == "exp" and not (facts.is_normalised(evidence) and evidence.path[1].op == "div"):
        return None  # without a sum to divide by, a shift would change the value
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
