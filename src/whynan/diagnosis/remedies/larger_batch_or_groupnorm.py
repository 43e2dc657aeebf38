from whynan.diagnosis.catalogue import Remedy
from whynan.records import Evidence


class LargerBatchOrGroupnorm(Remedy):
    """Give the normalisation more values to take statistics over: a larger batch, `drop_last=True` in the loader, or
    group norm, which does not depend on the batch.

    Code:
        loader = DataLoader(dataset, batch_size=16, drop_last=True)
        norm = nn.GroupNorm(num_groups=8, num_channels=64)
        from whynan.torch.layers import BatchNorm2d, replace_batch_norm   # replace_batch_norm(model)
    """

    slug = "larger-batch-or-groupnorm"
    title = "larger batches, or group norm"

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        if evidence.batch.size is not None and evidence.batch.size <= 2:
            return "DataLoader(..., drop_last=True)"
        kind = (evidence.origin.module_type or "") if evidence.origin else ""
        return "nn.GroupNorm(num_groups, num_channels)  # in place of " + kind if "BatchNorm" in kind else None
