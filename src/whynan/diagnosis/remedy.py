"""What a remedy is: a page of the catalogue and a function that fits it to the line where it belongs."""

from typing import ClassVar

from whynan.diagnosis import facts
from whynan.diagnosis.snippets import patch_for
from whynan.records.evidence import Evidence
from whynan.records.incident import RemedyProposed


class Remedy:
    """A change that should help.

    The docstring is its page in the catalogue: what it does and when it helps, then code under `Code:`.
    """

    slug: ClassVar[str]
    title: ClassVar[str]

    def where(self, evidence: Evidence) -> str | None:
        """Return the place of the change as "train.py:57"; the origin's line unless a remedy knows better."""
        return facts.place(evidence)

    def patch(self, evidence: Evidence, cause: str) -> str | None:
        """Return the change as one line of code, None where it can't be said in one."""
        return None

    def propose(self, evidence: Evidence, cause: str) -> RemedyProposed:
        """Return this remedy fitted to the evidence; `cause` is the slug of the cause that asks for it."""
        if evidence.framework == "torch" or self.slug in _NEUTRAL:
            patch = self.patch(evidence, cause)
        else:
            patch = patch_for(evidence.framework, self.slug, evidence)
        return RemedyProposed(self.slug, self.title, self.where(evidence), patch)


_NEUTRAL = ("normalize-inputs",)
"""Remedies whose line reads the same in every framework."""
