import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(0)
a = (rng.normal(size=(256, 64)) * 30).astype(np.float16)
b = (a + rng.normal(size=(256, 64)) * 5).astype(np.float16)


def encode(w, x):
    return x @ w.astype(jnp.float16)


def contrastive(w, a, b):
    za, zb = encode(w, a), encode(w, b)
    logits = za @ zb.T
    labels = jnp.arange(len(a))
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32) / 100.0, labels).mean()


tx = optax.sgd(1e-4)
w = jnp.asarray(rng.normal(size=(64, 32)) / 8, jnp.float32)
opt = tx.init(w)


@jax.jit
def step(w, opt, a, b):
    loss, g = jax.value_and_grad(contrastive)(w, a, b)
    u, opt = tx.update(g, opt)
    return optax.apply_updates(w, u), opt, loss


for epoch in range(3):
    for k in range(0, 256, 32):
        w, opt, loss = step(w, opt, a[k:k + 32], b[k:k + 32])
    print(epoch, loss)
