from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class CustomBackward(Cause):
    """A hand-written autograd function returned NaN or inf although what it got was finite: a formula that is right
    except at one point, a division by a norm that can be 0, a tensor changed after it was saved.

    Symptoms:
        Loss and forward values are finite; gradients are NaN below one custom function. The framework's own
        operations around it are not to blame.

    Given:
        class UnitGradient(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, eps):
                ctx.eps = eps
                return x.view_as(x)
            @staticmethod
            def backward(ctx, grad):
                return grad / (grad.norm() + ctx.eps), None
        x = torch.tensor([0.3, 0.4], requires_grad=True)
    Bad:
        loss = (torch.relu(UnitGradient.apply(x, 0.0) - 1)).sum()
    Good:
        loss = (torch.relu(UnitGradient.apply(x, 1e-8) - 1)).sum()
    """

    slug = "custom-backward"
    title = "a hand-written derivative is not finite"
    group = "architecture"
    remedies = ("fix-custom-op", "clamp-or-eps", "double-where")

    def match(self, evidence: Evidence) -> Match | None:
        name = evidence.in_custom_function
        if name is None or evidence.custom_input_nonfinite:
            return None
        part = "backward" if facts.is_backward(evidence) else "forward"
        return Match(
            0.96 if facts.is_backward(evidence) else 0.7,
            f"{name}.{part} got finite values and made a non-finite one; its formula does not hold there.",
            (f"custom function: {name}", *facts.input_facts(evidence)),
        )
