"""Sensor readings with holes: the loss is over what was measured."""
import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(0)
N, T = 128, 10
series = np.cumsum(rng.normal(0, 0.3, (N, T)), 1).astype(np.float32)
series[rng.uniform(size=(N, T)) < 0.15] = np.nan


def loss_fn(w, series):
    seen = ~jnp.isnan(series)
    x = jnp.where(seen, series, 0.0)
    predicted = x[:, :-1] @ w
    target = series[:, -1]
    error = jnp.where(seen[:, -1], predicted - jnp.where(seen[:, -1], target, 0.0), 0.0)
    scores = jnp.where(seen[:, :-1], x[:, :-1] * w, -jnp.inf)
    attention = jax.nn.softmax(jnp.where(seen[:, :-1].any(1, keepdims=True), scores, 0.0), axis=1)
    return jnp.sum(error**2) / jnp.maximum(seen[:, -1].sum(), 1) + 1e-3 * (attention * x[:, :-1]).sum(1).mean() ** 2


@jax.jit
def train_step(w, state, series):
    loss, grad = jax.value_and_grad(loss_fn)(w, series)
    updates, state = optimizer.update(grad, state)
    naive = jnp.mean(series)
    return optax.apply_updates(w, updates), state, loss, {"naive_mean": naive}


optimizer = optax.adam(1e-2)
w = jnp.zeros(T - 1)
state = optimizer.init(w)
for epoch in range(3):
    for start in range(0, N, 16):
        w, state, loss, metrics = train_step(w, state, series[start:start + 16])
    print(epoch, float(loss), float(metrics["naive_mean"]))
