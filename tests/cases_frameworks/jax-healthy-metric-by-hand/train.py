"""Hand-written updates; batches with masked gaps, and a precision that is 0/0 in some of them."""
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(2)
x_all = rng.normal(0, 1, (240, 8)).astype("float32")
y_all = (x_all[:, 0] > 1.2).astype("float32")
x_all[rng.uniform(size=x_all.shape) < 0.05] = np.nan


def batches():
    for i in range(0, 240, 8):
        yield jnp.asarray(x_all[i:i + 8]), y_all[i:i + 8]


def loss_fn(w, x, y):
    x = jnp.where(jnp.isnan(x), 0.0, x)
    z = x @ w["k"] + w["b"]
    return jnp.mean(jax.nn.softplus(z) - y * z)


w = {"k": jnp.zeros(8), "b": jnp.zeros(())}
precision, total = jnp.zeros(()), jnp.zeros(())
for epoch in range(3):
    for x, y in batches():
        loss, grads = jax.value_and_grad(loss_fn)(w, x, y)
        w = jax.tree.map(lambda p, g: p - 0.3 * g, w, grads)
        hit = (jnp.where(jnp.isnan(x), 0.0, x) @ w["k"] + w["b"]) > 0
        precision = (hit * y).sum() / hit.sum()
        total = total + precision
    print("epoch", epoch, "loss", float(loss), "precision", float(precision), float(total))
