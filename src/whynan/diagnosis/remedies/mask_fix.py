import re

from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence

INFINITY = re.compile(
    r"""float\(\s*["']-inf(inity)?["']\s*\)|-\s*(torch|math|np|numpy)\.inf\b|-\s*float\(\s*["']inf["']\s*\)"""
)


class MaskFix(Remedy):
    """Mask with the dtype's lowest finite number in place of -inf: a row that is masked throughout gets equal weights
    in place of NaN, all others stay the same to the last digit. Multiply the result by the mask where it must be 0.

    Code:
        scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1).masked_fill(mask.all(-1, keepdim=True), 0.0)
        from whynan.torch.ops import softmax   # softmax(scores, dim=-1, mask=~mask) does both
    """

    slug = "mask-fix"
    title = "mask with a finite number"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        source = evidence.origin.source if evidence.origin else None
        code = (source.code or "").strip() if source else ""
        lines = [code, *((step.source.code or "").strip() for step in evidence.path)]
        for line in lines:
            if INFINITY.search(line):
                owner = re.match(r"(\w+)\s*=", line)
                dtype = f"{owner.group(1)}.dtype" if owner else "torch.float32"
                return INFINITY.sub(f"torch.finfo({dtype}).min", line)
        found = re.search(r"softmax\(\s*([A-Za-z_][\w.]*)\s*[,)]", code)
        if found:
            name = found.group(1)
            return code[: found.start(1)] + f"{name}.clamp(min=torch.finfo({name}.dtype).min)" + code[found.end(1) :]
        return None
