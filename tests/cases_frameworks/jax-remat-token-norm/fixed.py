"""A small transformer-like encoder with rematerialised blocks; tokens are length-normalised."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(0)
N, T, D = 192, 6, 12
x = rng.normal(0, 1, (N, T, D)).astype(np.float32)
x[131, 4:] = 0.0
y = rng.normal(0, 1, (N, 3)).astype(np.float32)


@functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
def block(w, h):
    length = jnp.sqrt(jnp.sum(h * h, axis=-1, keepdims=True) + 1e-6)
    h = h / (1.0 + length)
    return h + jnp.tanh(h @ w)


def loss_fn(params, x, y):
    h = x
    for w in params["blocks"]:
        h = block(w, h)
    return jnp.mean((h.mean(1) @ params["head"] - y) ** 2)


key = jax.random.split(jax.random.PRNGKey(0), 3)
params = {
    "blocks": [jax.random.normal(k, (D, D)) / D**0.5 for k in key[:2]],
    "head": jax.random.normal(key[2], (D, 3)) / D**0.5,
}
optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 200)))
state = optimizer.init(params)


@jax.jit
def train_step(params, state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


for epoch in range(3):
    order = rng.permutation(N)
    for start in range(0, N, 32):
        batch = order[start:start + 32]
        params, state, loss = train_step(params, state, x[batch], y[batch])
    print(f"epoch {epoch} loss {loss:.4f}")
