"""Which versions of each framework an adapter is made for. Others run unwatched, and are told so."""

import re

SUPPORTED: dict[str, tuple[str, str]] = {
    "tensorflow": ("2.16", "3.0"),
    "keras": ("3.10", "4.0"),
    "jax": ("0.7", "0.13"),
    "mindspore": ("2.9", "3.0"),
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
