from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class FullyMaskedSoftmax(Cause):
    """A softmax got a row that is -inf throughout, because its mask leaves nothing: an empty text, a query without any
    allowed key. exp(-inf - (-inf)) is NaN; a row with one finite entry would be fine.

    Symptoms:
        Attention weights of one row are NaN; the loss is NaN at batches with an empty or fully padded sample.
        -inf elsewhere in the mask is meant and harmless.

    Given:
        scores = torch.tensor([[0.3, 0.1], [0.2, 0.7]], requires_grad=True)
        padding = torch.tensor([[False, True], [True, True]])
    Bad:
        weights = torch.softmax(scores.masked_fill(padding, float("-inf")), dim=1)
        loss = weights[:, 0].mean()
    Good:
        weights = torch.softmax(scores.masked_fill(padding, torch.finfo(scores.dtype).min), dim=1)
        loss = weights[:, 0].mean()
    """

    slug = "fully-masked-softmax"
    title = "softmax over a row that is masked throughout"
    group = "math"
    remedies = ("mask-fix", "drop-sample", "skip-empty")

    def match(self, evidence: Evidence) -> Match | None:
        op = facts.op_of(evidence)
        attends = op in facts.SOFTMAX or "attention" in op
        given = (f"rows that are -inf throughout: {evidence.masked_rows}", *facts.input_facts(evidence))
        if evidence.masked_rows and (attends or evidence.intended_infinity):
            return Match(
                0.96 if attends else 0.85,
                f"{evidence.masked_rows} row(s) of the input of {op} are -inf throughout: the mask leaves "
                "nothing to attend to.",
                given,
            )
        if attends and any(tensor.n_neginf for tensor in facts.inputs(evidence)):
            return Match(0.7, f"{op} got -inf and gave NaN, which happens where a row is -inf throughout.", given[1:])
        if not evidence.intended_infinity:
            return self.match_by_hand(evidence)
        if op in ("sub", "exp") and facts.mentions(evidence, r"max|softmax|mask|attn|attention|score"):
            return Match(0.9, "A softmax by hand subtracts a maximum of -inf from -inf: its row is masked.", given[1:])
        return None

    def match_by_hand(self, evidence: Evidence) -> Match | None:
        """Match a softmax made of exp, a mask as factor and a division by the sum, which is 0 for a masked row."""
        divisor = facts.divisor(evidence) if facts.op_of(evidence) == "div" else None
        if divisor is None or not divisor.n_zero or not facts.mentions(evidence, r"attn|attention|softmax"):
            return None
        return Match(0.7, "An attention weight is divided by the sum over its row, and nothing of the row is left.", ())
