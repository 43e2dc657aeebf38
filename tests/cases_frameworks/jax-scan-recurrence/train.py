"""A recurrent net over sensor sequences with lax.scan and plain SGD."""
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(7)
sequences = rng.normal(0, 1, (240, 60, 3)).astype(np.float32)
targets = sequences.sum(axis=(1, 2)).astype(np.float32)[:, None]


def init(key):
    k1, k2, k3 = jax.random.split(key, 3)
    return {"inp": 0.5 * jax.random.normal(k1, (3, 32)), "rec": 0.6 * jax.random.normal(k2, (32, 32)),
            "out": 0.1 * jax.random.normal(k3, (32, 1))}


def forward(params, sequence):
    def cell(state, x):
        state = jax.nn.relu(x @ params["inp"] + state @ params["rec"])
        return state, None

    state, _ = jax.lax.scan(cell, jnp.zeros(32), sequence)
    return state @ params["out"]


def loss_fn(params, batch, target):
    return jnp.mean((jax.vmap(forward, (None, 0))(params, batch) - target) ** 2)


@jax.jit
def update(params, batch, target):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch, target)
    return jax.tree_util.tree_map(lambda p, g: p - 1e-3 * g, params, grads), loss


params = init(jax.random.PRNGKey(1))
for epoch in range(3):
    for start in range(0, 240, 24):
        params, loss = update(params, sequences[start:start + 24], targets[start:start + 24])
    print("epoch", epoch, "loss", float(loss))
