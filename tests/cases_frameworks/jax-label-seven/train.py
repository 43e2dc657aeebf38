"""Digit-like classification with optax; one label of a merged data set names a class that is not there."""
import jax
import jax.numpy as jnp
import numpy as np
import optax


def samples(count=360, classes=6, seed=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = rng.normal(0, 0.5, (count, 12)) + np.eye(12)[labels]
    labels[214] = 7
    return features.astype(np.float32), labels.astype(np.int32)


def init(key):
    k1, k2 = jax.random.split(key)
    return {"w1": 0.2 * jax.random.normal(k1, (12, 24)), "b1": jnp.zeros(24),
            "w2": 0.2 * jax.random.normal(k2, (24, 6)), "b2": jnp.zeros(6)}


def loss_fn(params, features, labels):
    hidden = jnp.tanh(features @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


optimizer = optax.adam(1e-2)


@jax.jit
def train_step(params, state, features, labels):
    loss, grads = jax.value_and_grad(loss_fn)(params, features, labels)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, loss


features, labels = samples()
params = init(jax.random.PRNGKey(0))
state = optimizer.init(params)
for epoch in range(3):
    for start in range(0, 360, 24):
        params, state, loss = train_step(params, state, features[start:start + 24], labels[start:start + 24])
    print("epoch", epoch, "loss", float(loss))
