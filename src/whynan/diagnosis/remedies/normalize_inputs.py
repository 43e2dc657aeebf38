from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class NormalizeInputs(Remedy):
    """Subtract the training set's mean and divide by its standard deviation, for targets too; take the logarithm of
    what spans many orders of magnitude. Undo it on the predictions.

    Code:
        mean, std = x_train.mean(0), x_train.std(0) + 1e-6   # over the training set, once
        x = (x - mean) / std
    """

    slug = "normalize-inputs"
    title = "normalise inputs and targets"

    def where(self, evidence: Evidence) -> str | None:
        return None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        extreme = facts.extreme_tensor(evidence)
        name = extreme.name if extreme is not None and extreme.name and extreme.name.isidentifier() else "x"
        return f"{name} = ({name} - {name}_mean) / ({name}_std + 1e-6)  # mean and std of the training set"
