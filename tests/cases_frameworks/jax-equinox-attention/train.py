"""Set classification with masked attention (Equinox, filter_jit)."""
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


def sets(count=240, size=8, seed=11):
    rng = np.random.default_rng(seed)
    items = rng.normal(0, 1, (count, size, 4)).astype(np.float32)
    present = np.arange(size) < rng.integers(1, size + 1, count)[:, None]
    present[131] = False
    return items, present, (items[:, 0, 0] > 0).astype(np.float32)


class Pool(eqx.Module):
    score: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, key):
        k1, k2 = jax.random.split(key)
        self.score = eqx.nn.Linear(4, 1, key=k1)
        self.out = eqx.nn.Linear(4, 1, key=k2)

    def __call__(self, items, present):
        scores = jax.vmap(self.score)(items)[:, 0]
        weights = jax.nn.softmax(jnp.where(present, scores, -jnp.inf))
        return self.out(weights @ items)[0]


def loss_fn(model, items, present, labels):
    logits = jax.vmap(model)(items, present)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


optimizer = optax.adam(1e-2)


@eqx.filter_jit
def train_step(model, state, items, present, labels):
    loss, grads = eqx.filter_value_and_grad(loss_fn)(model, items, present, labels)
    updates, state = optimizer.update(grads, state)
    return eqx.apply_updates(model, updates), state, loss


items, present, labels = sets()
model = Pool(jax.random.PRNGKey(3))
state = optimizer.init(eqx.filter(model, eqx.is_array))
for epoch in range(2):
    for start in range(0, 240, 24):
        window = slice(start, start + 24)
        model, state, loss = train_step(model, state, items[window], present[window], labels[window])
    print("epoch", epoch, "loss", float(loss))
