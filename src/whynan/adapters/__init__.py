"""What each framework's adapter offers, as facts: shown by `whynan explain --capabilities`, held against the code.

A value is True, False, or words that say how far it goes. A capability that code stands for names it in `PROOF`: the
attribute must exist where the table says yes, and must not where it says no.
"""

import re
from dataclasses import dataclass

FRAMEWORKS = ("torch", "keras", "tensorflow", "jax", "mindspore", "numpy")


@dataclass(frozen=True)
class Capability:
    """One row: a slug, what it means to a user, and what each framework offers of it."""

    slug: str
    title: str
    offers: dict[str, bool | str]


def _row(slug: str, title: str, *offers: bool | str) -> Capability:
    return Capability(slug, title, dict(zip(FRAMEWORKS, offers, strict=True)))


CAPABILITIES: tuple[Capability, ...] = (
    _row("unchanged", "watched by `whynan run` without a change to the script", True, True, True, True, True, True),
    _row("compiled", "steps that are compiled", "not the op-by-op trace of torch.compile", True, True, True,
         "not in sink mode", False),
    _row("eager", "steps that are not compiled", True, True, "loops of the script's own", "derivatives", True, True),
    _row("withheld", "the bad update is withheld, weights stay as they were", True, True, True,
         "put back after a stop: in a module's names and in Keras' models",
         "of a compiled function they are put back", "put back after the step"),
    _row("at-once", "told within the step that failed", True, True, True, "up to a few steps later", True, True),
    _row("replay", "the step is run again", "re-yield", "closure", "closure", "closure", "closure", "closure"),
    _row("backward", "births in the backward pass, at the forward line", True, True, True, True, True,
         "a script's own backward pass is forward code"),
    _row("optimizer", "births in the update", True, "within the step", "within the step", True,
         "PyNative mode, as a whole", True),
    _row("validation", "a validation loss", True, True, "loss objects, functions that return a loss, numbers read",
         "functions named like a loss", "`Model.eval`, and losses that a loop reads as a number",
         "by its name, in the loop that trains"),
    _row("sample", "the guilty sample and its index", True, True, True, True, True, True),
    _row("data-line", "the line of a data set's own code that made a bad sample", True,
         "`PyDataset`, generators, functions that `tf.data` maps", "generators, functions that `tf.data` maps",
         "generators, classes with `__getitem__`", "sources in Python, functions that are mapped",
         "generators, classes with `__getitem__`"),
    _row("layers", "names of layers", True, True, False, False, True, False),
    _row("randomness", "the replay draws the same random numbers", True, "seeds of Keras, not of its kernels",
         "stateless generators", True, "NumPy's and Python's, not its kernels'", True),
    _row("drop-sample", "experiment: without the sample", True, True, True, True, True, True),
    _row("patched-line", "experiment: the patched line", True, True, True, True, True, True),
    _row("full-precision", "experiment: higher precision", True, "half precision in float32",
         "half precision in float32", True, "layers of mixed precision in float32", True),
    _row("learning-rate", "experiment: smaller steps, from a kept state on", True, True, True, True, True, True),
    _row("clipping", "experiment: clipped gradients", True, True, True, True, True,
         "where `weight - rate * gradient` is the whole update"),
    _row("initialization", "experiment: weights scaled by fan-in", True, True, True, True, True, True),
    _row("steps-before", "plots by layer over the last steps", True, "on PyTorch", False, False, "gradient norms",
         "updates"),
    _row("recovery", "`--policy recover`", "a ladder of interventions", "the ladder", "the ladder", "the ladder",
         "skip, roll back, smaller updates", "the ladder; clipping as in the experiment"),
    _row("recovery-sample", "recovery leaves a guilty sample out", "of a `DataLoader`", "of `fit`",
         "of function arguments and what a loop's header binds", "of function arguments and what a loop's header binds",
         False, "of what a loop's header binds"),
    _row("callback", "a callback or decorator for those who edit", True, True, False, True, True, False),
    _row("distributed", "several replicas", True, "`fit` under MirroredStrategy, one replica run again",
         "MirroredStrategy, one replica run again", "pmap, shard_map, sharded arrays, several hosts", False, False),
)  # fmt: skip

PROOF: dict[str, dict[str, tuple[str, str]]] = {
    "full-precision": {
        "keras": ("whynan.adapters.tensorflow.experiments", "Bench.in_double"),
        "tensorflow": ("whynan.adapters.tensorflow.experiments", "in_float32"),
        "jax": ("whynan.adapters.jax.experiments", "Bench.in_double"),
        "numpy": ("whynan.adapters.numpy.experiments", "Bench.in_double"),
    },
    "clipping": {
        "tensorflow": ("whynan.adapters.tensorflow.watch", "Watch.limit_gradients"),
        "jax": ("whynan.adapters.jax.watch", "Watch.limit_gradients"),
        "numpy": ("whynan.adapters.numpy.experiments", "shorten"),
    },
    "recovery-sample": {
        "tensorflow": ("whynan.adapters.common.arrays", "LeftOut.rows"),
        "numpy": ("whynan.adapters.common.arrays", "LeftOut.replace_in_header"),
    },
    "learning-rate": {
        "tensorflow": ("whynan.adapters.tensorflow.experiments", "Bench.with_rate"),
        "jax": ("whynan.adapters.jax.experiments", "Bench.with_rate"),
        "numpy": ("whynan.adapters.numpy.experiments", "Bench.with_rate"),
    },
    "callback": {
        "keras": ("whynan.keras", "Watch"),
        "torch": ("whynan", "watch"),
        "jax": ("whynan.jax", "watch"),
    },
    "recovery": {
        "keras": ("whynan.adapters.tensorflow.host", "TensorFlowHost._recovered"),
        "tensorflow": ("whynan.adapters.tensorflow.host", "TensorFlowHost._recovered"),
        "jax": ("whynan.adapters.jax.host", "JaxHost._recovered"),
        "numpy": ("whynan.adapters.numpy.host", "NumpyHost._recovered"),
    },
    "validation": {
        "tensorflow": ("whynan.adapters.tensorflow.flags", "install"),
    },
    "distributed": {
        "tensorflow": ("whynan.adapters.tensorflow.closure", "FunctionClosure.on_replica"),
        "jax": ("whynan.adapters.jax.shards", "Shards.run"),
    },
    "data-line": {
        "keras": ("whynan.adapters.keras", "fit_data"),
        "tensorflow": ("whynan.adapters.tensorflow.replay", "mapped"),
        "jax": ("whynan.adapters.common.data.reread", "of_users"),
        "mindspore": ("whynan.adapters.common.data.reread", "look_in_data"),
    },
    "sample": {
        "tensorflow": ("whynan.adapters.tensorflow.closure", "Closure.with_rows"),
        "jax": ("whynan.adapters.jax.replay", "Call.with_rows"),
    },
}


def table() -> str:
    """Return the capabilities as a Markdown table."""
    lines = ["| capability | " + " | ".join(FRAMEWORKS) + " |", "| --- |" + " --- |" * len(FRAMEWORKS)]
    lines += [
        f"| {row.title} | " + " | ".join(in_words(row.offers[name]) for name in FRAMEWORKS) + " |"
        for row in CAPABILITIES
    ]
    return "\n".join(lines)


def in_words(offer: bool | str) -> str:
    return {True: "yes", False: "no"}[offer] if isinstance(offer, bool) else offer


SUPPORTED: dict[str, tuple[str, str]] = {
    "tensorflow": ("2.16", "3.0"),
    "keras": ("3.10", "4.0"),
    "jax": ("0.7", "0.13"),
    "mindspore": ("2.7", "3.0"),
    "numpy": ("1.26", "3.0"),
}
"""From the first version on, up to but not including the second."""


def refusal(framework: str, version: str) -> str | None:
    """Return why a version is not watched, in words for the user; None where it is."""
    first, end = SUPPORTED[framework]
    if _numbers(first) <= _numbers(version) < _numbers(end):
        return None
    age = "older" if _numbers(version) < _numbers(first) else "newer"
    return (
        f"{framework} {version} is {age} than what whynan watches ({first} or later, before {end}): "
        f"the run goes on unwatched; install a supported {framework}, or a newer whynan"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
