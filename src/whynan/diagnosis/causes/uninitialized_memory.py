from whynan.diagnosis import facts
from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence

FRESH = ("empty", "empty_like", "new_empty", "empty_strided", "resize")


class UninitializedMemory(Cause):
    """A tensor was made with `empty`, `empty_like`, `new_empty` or `resize_` and read before it was written, or written
    only in part. It holds whatever was in that memory before: mostly zeros, now and then NaN or 1e38.

    Symptoms:
        Comes and goes between runs and machines; vanishes under a debugger, with another batch size, or when
        memory happens to be clean.

    Given:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN, so that this shows every time
    Bad:
        buffer = torch.empty(4)
        buffer[:2] = x
        loss = buffer.sum()
    Good:
        buffer = torch.zeros(4)
        buffer[:2] = x
        loss = buffer.sum()
    """

    slug = "uninitialized-memory"
    title = "memory was read that nobody wrote"
    group = "architecture"
    remedies = ("better-init", "fix-custom-op")

    def match(self, evidence: Evidence) -> Match | None:
        leaf = evidence.bad_leaf
        if leaf is not None and leaf.tensor.role == "uninitialized":
            return Match(
                0.97,
                f"{leaf.tensor.name or 'A tensor'} was made without being filled and read before anything wrote it"
                f"{': ' + leaf.detail if leaf.detail else '.'}",
                (f"memory: {facts.describe(leaf.tensor)}",),
            )
        if leaf is not None and facts.is_data(evidence) and facts.op_of(evidence) in FRESH:
            return Match(
                0.97,
                "The batch was put together in fresh memory, and not all of that was written.",
                (f"batch: {facts.describe(leaf.tensor)}",),
            )
        given = next((tensor for tensor in facts.inputs(evidence) if tensor.role == "uninitialized"), None)
        if given is not None:
            return Match(
                0.93,
                f"{given.name or 'An input'} of {facts.op_of(evidence)} is memory that nobody wrote.",
                (f"memory: {facts.describe(given)}",),
            )
        if leaf is not None and leaf.tensor.role in ("parameter", "buffer") and leaf.since_step == -1:
            return Match(
                0.3 if facts.is_class_weight(evidence) or evidence.symptom.stage == "validation" else 0.65,
                f"{leaf.tensor.name or 'A parameter'} held non-finite values before the first step, as "
                "`torch.empty` leaves "
                "them.",
                (f"{leaf.tensor.role}: {facts.describe(leaf.tensor)}",),
            )
        return None
