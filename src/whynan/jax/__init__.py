"""Parts for JAX that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`.

They are pure functions: `jax.jit`, `jax.vmap`, `jax.grad` apply. For every finite input value and gradient are finite,
in float64, float32, bfloat16 and float16, at every size. XLA on the CPU takes subnormal numbers for 0.
"""
