from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class ClassUnused(Check):
    """Its output is never right: a loss averaged over classes divides by its count of 0, and class weights computed as
    1 / frequency are infinite."""

    title = "declared class without any sample"
    severity = "note"
    cause = "division-by-zero"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            if not part.declared or not part.counts:
                continue
            unused = [index for index in sorted(part.declared) if not part.counts.get(index)]
            names = [f"{index} ({part.declared[index]})" for index in unused]
            if not names:
                continue
            text = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            message = f"{len(names)} of {len(part.declared)} classes are never used: {text}"
            yield self.finding(part.file, text, message)
