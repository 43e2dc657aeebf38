"""Parts for JAX that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`.

`watch` watches a training step.

The parts are pure functions: `jax.jit`, `jax.vmap`, `jax.grad` apply. For every finite input value and gradient are
finite, in float64, float32, bfloat16 and float16, at every size. XLA on the CPU takes subnormal numbers for 0.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whynan.jax.watching import watch

__all__ = ["watch"]


def __getattr__(name: str) -> Any:
    if name == "watch":
        from whynan.jax.watching import watch

        return watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
