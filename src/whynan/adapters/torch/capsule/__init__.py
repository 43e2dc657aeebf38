"""A failing step in a folder, so that it can be run again elsewhere: tensors as safetensors, the rest as JSON."""

import json
from pathlib import Path

from whynan.errors import CapsuleError

_FILES = ("capsule.json", "state.safetensors")


def check(place: Path) -> None:
    """Raise CapsuleError where a folder does not hold a capsule."""
    missing = [name for name in _FILES if not (place / name).is_file()]
    if missing:
        raise CapsuleError(
            f"{place} holds no {' and no '.join(missing)}; `whynan run --capsule train.py` writes a capsule"
        )
    try:
        json.loads((place / _FILES[0]).read_text())
    except ValueError as error:
        raise CapsuleError(f"{place / _FILES[0]} is not JSON: {error}") from None
