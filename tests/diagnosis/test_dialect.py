"""A remedy in the words of the user's own line."""

import pytest

from whynan.adapters.common.dialect import changes_for

from .synthetic import evidence, tensor


@pytest.mark.parametrize(
    ("slug", "op", "low", "line", "wanted"),
    [
        ("double-where", "atan2", 0.0, "a = jnp.arctan2(y, x)",
         "a = jnp.arctan2(y, jnp.where((x == 0) & (y == 0), jnp.ones_like(x), x))"),
        ("clamp-or-eps", "pow", 0.0, "a = jnp.power(1.0 - t, 0.75)", "a = jnp.power((1.0 - t + 1e-12), 0.75)"),
        ("clamp-or-eps", "pow", -0.1, "a = (1.0 - t) ** 0.9", "a = (jnp.maximum(1.0 - t, 1e-12)) ** 0.9"),
    ],
)  # fmt: skip
def test_changed_line(slug, op, low, line, wanted, tmp_path):
    file = tmp_path / "train.py"
    file.write_text(f"import jax.numpy as jnp\n{line}\n")
    base = tensor(low, 1.0, n_negative=int(low < 0))
    found = changes_for(slug, evidence(op, "forward", base), str(file), 2)
    assert wanted in [change.new for change in found]
