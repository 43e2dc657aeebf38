"""Poisson-like regression by hand: value_and_grad without jit, parameters updated with tree_map."""
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(3)
x = rng.normal(0, 1, (300, 5)).astype(np.float32)
rate = np.exp(x @ rng.normal(0, 0.3, 5))
y = rng.poisson(rate).astype(np.float32)


def predict(params, x):
    return jax.nn.relu(x @ params["w"] + params["b"])


def loss_fn(params, x, y):
    mu = predict(params, x)
    return jnp.mean(mu - y * jnp.log(mu + 1e-3))


params = {"w": jnp.zeros(5), "b": jnp.array(0.8)}
for epoch in range(3):
    for start in range(0, 300, 30):
        loss, grads = jax.value_and_grad(loss_fn)(params, x[start:start + 30], y[start:start + 30])
        params = jax.tree_util.tree_map(lambda p, g: p - 0.2 * g, params, grads)
    print("epoch", epoch, "loss", float(loss))
