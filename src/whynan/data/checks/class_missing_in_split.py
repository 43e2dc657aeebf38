from whynan.data.finding import Check, Found
from whynan.data.units import Overview


class ClassMissingInSplit(Check):
    """A class that is validated and never trained has an arbitrary output; a metric over the classes of the validation
    divides by 0 for one that only training has."""

    title = "class that a split lacks"
    severity = "warning"
    cause = "division-by-zero"
    subject = "set"

    def find(self, thing: Overview) -> Found:
        for part in thing.parts:
            splits = {name: counts for name, counts in part.classes_by_split.items() if sum(counts.values())}
            if "train" not in splits or len(splits) < 2:
                continue
            for split, counts in sorted(splits.items()):
                if split == "train":
                    continue
                for label in sorted(set(counts) - set(splits["train"]), key=str):
                    name = (part.declared or {}).get(label, label)
                    message = f"class {name} comes {counts[label]} times in {split} and never in train"
                    yield self.finding(part.file, name, message)
