import ast

from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class BetterInit(Remedy):
    """Initialize by fan-in (Kaiming for ReLU, Xavier for tanh, orthogonal for recurrent weights), and never leave
    `torch.empty` as it is.

    Code:
        torch.nn.init.kaiming_normal_(layer.weight)
        from whynan.torch.init import initialize   # print(initialize(model, batch)): each layer by its type
        weight = nn.Parameter(torch.randn(out_features, in_features) / in_features ** 0.5)
    """

    slug = "better-init"
    title = "initialize by fan-in"

    def where(self, evidence: Evidence) -> str | None:
        return None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        if cause == "uninitialized-memory":
            return self.patch_empty(evidence)
        names = [name for name, _ in evidence.history.largest_gain_start[:1]]
        owner = names[0] if names and all(part.isidentifier() for part in names[0].split(".")) else "layer.weight"
        return f"torch.nn.init.kaiming_normal_({owner})"

    def patch_empty(self, evidence: Evidence) -> str:
        code = evidence.origin.source.code if evidence.origin else None
        for old, new in (
            ("empty_like(", "zeros_like("),
            (".new_empty(", ".new_zeros("),
            ("torch.empty(", "torch.zeros("),
        ):
            changed = code.strip().replace(old, new) if code and old in code else None
            if changed and is_statement(changed):
                return changed
        return "torch.zeros(...)  # in place of torch.empty(...)"


def is_statement(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True
