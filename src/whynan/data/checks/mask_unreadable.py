from whynan.data.finding import Check, Found, report
from whynan.data.units import MaskLook


class MaskUnreadable(Check):
    """A mask must give one class index for each pixel. A damaged file stops the loader; a mask of colours, or one saved
    with loss or scaled with smoothing, holds values that are no classes."""

    title = "mask without class indices"
    severity = "error"
    cause = "bad-target-values"
    subject = "mask"

    def find(self, thing: MaskLook) -> Found:
        facts = thing.facts
        if facts.get("error"):
            yield self.finding(thing.file, facts.get("format") or "mask", f"mask cannot be read: {facts['error']}")
            return
        if facts.get("colours"):
            message = "holds colours, no class indices: it has to be translated to be a target, and was not checked"
            yield self.finding(thing.file, facts["mode"], message, severity="note", image=thing.image)
        if facts.get("format") == "JPEG":
            message = "is saved as JPEG, which loses: at the borders of classes there are values that nobody drew"
            yield self.finding(thing.file, "JPEG", message, severity="warning", image=thing.image)
        for slug, kind in (("target-nan", "nan"), ("target-inf", "inf")):
            if facts.get(kind):
                yield report(slug, thing.file, f"{facts[kind]} {kind}", f"{facts[kind]} values of the mask are {kind}")
        if facts.get("fractions"):
            message = f"{facts['fractions']} values are no whole numbers: scaled with smoothing, or probabilities"
            yield self.finding(
                thing.file, f"{facts['fractions']} fractions", message, severity="warning", image=thing.image
            )
