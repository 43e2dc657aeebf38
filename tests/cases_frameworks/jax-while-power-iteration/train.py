"""Spectral features: the leading direction of each patch by power iteration in a while_loop, then a linear model."""
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

rng = np.random.default_rng(1)
N, P = 160, 6
patches = rng.normal(0, 1, (N, P, P)).astype(np.float32)
patches[93] = 0.0
y = rng.normal(0, 1, (N,)).astype(np.float32)


def leading(patch):
    gram = patch.T @ patch

    def unsettled(carry):
        i, v, change = carry
        return (i < 20) & (change > 1e-4)

    def power(carry):
        i, v, _ = carry
        new = gram @ v
        new = new / jnp.linalg.norm(new)
        return i + 1, new, jnp.abs(new - v).max()

    start = jnp.ones(P) / jnp.sqrt(P)
    return lax.while_loop(unsettled, power, (0, start, jnp.inf))[1]


def loss_fn(w, patches, y):
    features = jax.vmap(leading)(lax.stop_gradient(patches))
    return jnp.mean((features @ w - y) ** 2)


@jax.jit
def step(w, patches, y):
    loss, grad = jax.value_and_grad(loss_fn)(w, patches, y)
    return w - 0.05 * grad, loss


w = jnp.zeros(P)
for epoch in range(2):
    for start in range(0, N, 20):
        w, loss = step(w, patches[start:start + 20], y[start:start + 20])
    print(epoch, float(loss))
