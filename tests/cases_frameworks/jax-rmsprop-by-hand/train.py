"""Character classifier with RMSProp written by hand; only the gradient is jitted."""
import jax
import jax.numpy as jnp
import numpy as np

RATE, DECAY = 2e-3, 0.9
rng = np.random.default_rng(4)
tokens = rng.integers(1, 20, (384, 6))
kind = (tokens.sum(1) % 3).astype("int32")

keys = jax.random.split(jax.random.key(7), 3)
params = {"table": jax.random.normal(keys[0], (24, 10)) * 0.3,
          "w": jax.random.normal(keys[1], (60, 32)) * 0.15,
          "out": jax.random.normal(keys[2], (32, 3)) * 0.2}


def loss_fn(params, x, y):
    h = params["table"][x].reshape(len(x), -1)
    logits = jnp.tanh(h @ params["w"]) @ params["out"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


grad_fn = jax.jit(jax.value_and_grad(loss_fn))
squares = jax.tree.map(jnp.zeros_like, params)
for epoch in range(3):
    for start in range(0, 384, 32):
        loss, grads = grad_fn(params, tokens[start:start + 32], kind[start:start + 32])
        squares = jax.tree.map(lambda s, g: DECAY * s + (1 - DECAY) * g * g, squares, grads)
        params = jax.tree.map(
            lambda p, g, s: p - RATE * g / jnp.sqrt(s),
            params, grads, squares)
    print("epoch", epoch, "loss", float(loss))
