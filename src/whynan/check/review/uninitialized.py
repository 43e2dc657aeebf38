"""Parameters whose memory was never written to."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts
from whynan.check.review.nodes import finding


def find(facts: StepFacts) -> Iterator[Finding]:
    for node in facts.context.graph.nodes:
        if node.attrs.get("uninitialized"):
            yield finding(
                "uninitialized-parameter",
                "error",
                f"{node.name or 'a parameter'} was made by `empty` and never written to",
                node,
                cause="uninitialized-memory",
            )
