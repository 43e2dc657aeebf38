"""Activations that grow or vanish from layer to layer, and units that give nothing."""

from collections.abc import Iterator

from whynan.check.result import Finding
from whynan.check.review.facts import StepFacts

_RELUS = ("ReLU", "ReLU6")


def find(facts: StepFacts) -> Iterator[Finding]:
    layers = [layer for layer in facts.layers if layer.rms > 0]
    if len(layers) >= 2:
        largest, smallest = max(layers, key=lambda l: l.rms), min(layers, key=lambda l: l.rms)  # noqa: E741
        if largest.rms > 1e3 * max(layers[0].rms, 1.0):
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {largest.path} is {largest.rms:.3g} in size, of the first layer "
                f"{layers[0].rms:.3g}: "
                "activations grow with depth, and gradients with them",
                value=f"{largest.rms:.4g}",
                cause="bad-initialization",
            )
        if smallest.rms < 1e-5:
            yield Finding(
                "activation-scale",
                "warning",
                f"the output of {smallest.path} is {smallest.rms:.3g} in size: activations vanish with depth",
                value=f"{smallest.rms:.4g}",
                cause="bad-initialization",
            )
    for layer in facts.layers:
        if layer.kind in _RELUS and layer.zeros > 0.98:
            yield Finding(
                "dead-units",
                "warning",
                f"{100 * layer.zeros:.0f} % of what {layer.path} gives is 0: its units are dead",
                value=f"{layer.zeros:.3f}",
                cause="bad-initialization",
            )
        if layer.saturated > 0.9:
            yield Finding(
                "saturated-units",
                "warning",
                f"{100 * layer.saturated:.0f} % of what {layer.path} gives lies at its ends: gradients vanish there",
                value=f"{layer.saturated:.3f}",
                cause="bad-initialization",
            )
