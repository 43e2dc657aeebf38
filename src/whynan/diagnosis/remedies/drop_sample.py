from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class DropSample(Remedy):
    """Leave the offending sample out of the dataset. Right where the sample is broken (NaN, a box without area, an
    empty document); where it is legitimate, mend the operation instead.

    Code:
        bad = {4021}
        dataset = torch.utils.data.Subset(dataset, [i for i in range(len(dataset)) if i not in bad])
    """

    slug = "drop-sample"
    title = "leave the offending sample out"

    def where(self, evidence: Evidence) -> str | None:
        return None

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        indices = sorted({sample.index for sample in evidence.samples if sample.index is not None})
        if not indices or len(indices) > 16:
            return None
        if evidence.batch.size == 1 and cause == "empty-reduction":  # after the next shuffle another one stands alone
            return "loader = DataLoader(dataset, ..., drop_last=True)  # no batch of a single sample"
        inside = ", ".join(map(str, indices))
        return f"dataset = torch.utils.data.Subset(dataset, [i for i in range(len(dataset)) if i not in {{{inside}}}])"
