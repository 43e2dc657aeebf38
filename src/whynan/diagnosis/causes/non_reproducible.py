from whynan.diagnosis.catalogue import Cause, Match
from whynan.records import Evidence


class NonReproducible(Cause):
    """The failing step was run again from the same state and came out finite: a faulty device, a race between streams
    or processes, memory changed behind the framework's back, or a kernel whose sums come in another order each time.

    Symptoms:
        The run fails at another step each time in spite of fixed seeds, or on one machine only.

    Bad:
        value = buffer.to("cpu", non_blocking=True)  # read before the copy has ended
        loss = value.sum()
    Good:
        value = buffer.to("cpu", non_blocking=True)
        torch.cuda.synchronize()
        loss = value.sum()
    """

    slug = "non-reproducible"
    title = "the same step, run again, is finite"
    group = "machine"
    remedies = ("full-precision", "fix-custom-op")

    def match(self, evidence: Evidence) -> Match | None:
        replay = evidence.replay
        if replay.reproduced or replay.method == "none":
            return None
        if replay.not_restored:
            return Match(
                0.3,
                "The step came out finite when it ran again, but not everything could be put back as it was "
                f"({', '.join(replay.not_restored[:3])}), which may be the reason.",
                tuple(f"not restored: {name}" for name in replay.not_restored),
            )
        # An origin was found all the same: then what was found counts for more.
        confidence = 0.4 if evidence.origin is not None or evidence.bad_leaf is not None else 0.85
        return Match(
            confidence,
            "The same step with the same state, batch and random numbers came out finite when it ran again: the "
            "machine, a "
            "race or a kernel that is not deterministic.",
            (f"replayed by {replay.method}: finite", *((replay.why,) if replay.why else ())),
        )
