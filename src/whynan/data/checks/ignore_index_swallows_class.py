from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class IgnoreIndexSwallowsClass(Check):
    """Pixels of this class never count: the model does not learn it, and images that hold nothing else have a mean over
    nothing, 0 / 0."""

    title = "ignore index that is a class"
    severity = "warning"
    cause = "empty-target"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            ignored = part.ignore_index
            if ignored is None or not part.declared or ignored not in part.declared:
                continue
            total = sum(part.counts.values())
            n = part.counts.get(ignored, 0)
            name = part.declared[ignored]
            if not n or name.lower() in ("void", "ignore", "ignored", "unlabeled", "unlabelled", "background"):
                continue
            message = f"the ignore index {ignored} is class {name}: {n / total:.1%} of what is labelled is ignored"
            yield self.finding(part.file, ignored, message)
