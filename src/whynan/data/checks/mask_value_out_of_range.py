from whynan.data.finding import Check, Found
from whynan.data.units import MaskLook


class MaskValueOutOfRange(Check):
    """Cross-entropy indexes with the value: outside of 0..C-1 it raises an exception on the CPU, and on a GPU it
    fails an assertion or reads foreign memory. A void class needs ignore_index, and its default, -100, is in no mask
    of 8 bits."""

    title = "mask value that is no class"
    severity = "error"
    cause = "label-out-of-range"
    subject = "mask"

    def find(self, thing: MaskLook) -> Found:
        values = thing.facts.get("values")
        if not values or thing.classes is None:
            return
        bad = {value: n for value, n in values.items() if value not in thing.classes and value != thing.ignore_index}
        if not bad:
            return
        known = sorted(thing.classes)
        span = f"0..{known[-1]}" if known and len(known) == known[-1] + 1 else f"{len(known)} declared classes"
        text = ", ".join(f"{value} ({n} px)" for value, n in sorted(bad.items())[:4]) + (" ..." if len(bad) > 4 else "")
        void = "no ignore index is given" if thing.ignore_index is None else f"the ignore index is {thing.ignore_index}"
        hint = (
            f"; if {next(iter(sorted(bad)))} means void: --ignore-index {next(iter(sorted(bad)))}"
            if len(bad) == 1
            else ""
        )
        message = f"holds {text}, outside of {span}; {void}{hint}"
        yield self.finding(thing.file, text, message, image=thing.image)
