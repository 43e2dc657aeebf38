"""Whether a script decides by its own look at its gradients."""

from pathlib import Path

import pytest

from whynan.adapters.common.loops import decides_by_gradients, takes_gradients

STEP = "def step(x):\n    with Tape() as tape:\n        loss = f(x)\n    grads = tape.gradient(loss, w)\n"
DECIDES = [
    "    if tf.reduce_all([tf.math.is_finite(g) for g in grads]):\n        apply(grads)\n",
    "    norm = tf.linalg.global_norm(grads)\n    ok = tf.math.is_finite(norm)\n    tf.cond(ok, update, skip)\n",
    "    small = [g / 2 for g in grads]\n    if not healthy(small):\n        return\n    apply(small)\n",
    "    grads = [tf.where(tf.math.is_nan(g), 0.0, g) for g in grads]\n    apply(grads)\n",
]
DOES_NOT = [
    "    apply(grads)\n",
    "    print(tf.math.is_finite(grads[0]))\n    apply(grads)\n",
    "    if tf.math.is_nan(loss):\n        raise ValueError\n    apply(grads)\n",
    "    if grads:\n        apply(grads)\n",
]
HELPER = "\n\ndef healthy(values):\n    return all(np.isfinite(v).all() for v in values)\n"


@pytest.mark.parametrize(("text", "wanted"), [*((t, True) for t in DECIDES), *((t, False) for t in DOES_NOT)])
def test_decides_by_gradients(text: str, wanted: bool, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(STEP + text + HELPER)
    assert decides_by_gradients(str(file), 4, takes_gradients) is wanted


def test_source_that_is_not_there() -> None:
    assert not decides_by_gradients("<stdin>", 1, takes_gradients)
