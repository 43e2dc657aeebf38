"""A length-normalising layer with a hand-written vjp, trained with optax."""
import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(5)
x = rng.normal(0, 1, (256, 6)).astype(np.float32)
x[77] = 0.0
y = rng.normal(0, 1, (256, 2)).astype(np.float32)


@jax.custom_vjp
def shrink(v):
    return v * 0.5


def shrink_forward(v):
    return v * 0.5, v


def shrink_backward(v, upstream):
    length = jnp.sqrt(jnp.sum(v * v, axis=-1, keepdims=True))
    return (0.5 * upstream * v / (length + 1e-6),)


shrink.defvjp(shrink_forward, shrink_backward)


def loss_fn(w, x, y):
    return jnp.mean((shrink(x @ w) - y) ** 2)


optimizer = optax.sgd(1e-2)


@jax.jit
def train_step(w, state, x, y):
    loss, grad = jax.value_and_grad(loss_fn)(w, x, y)
    updates, state = optimizer.update(grad, state)
    return optax.apply_updates(w, updates), state, loss


w = 0.3 * jax.random.normal(jax.random.PRNGKey(2), (6, 2))
state = optimizer.init(w)
for epoch in range(2):
    for start in range(0, 256, 32):
        w, state, loss = train_step(w, state, x[start:start + 32], y[start:start + 32])
    print("epoch", epoch, "loss", float(loss))
