"""float16 perceptron with a loss scale by hand: steps whose gradients overflow are skipped."""
import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(1)
x_all = rng.normal(0, 1, (256, 10)).astype("float32")
y_all = (x_all[:, 0] - x_all[:, 1]).astype("float32")
params = {"w": jax.random.normal(jax.random.key(0), (10, 16)) * 0.3, "v": jax.random.normal(jax.random.key(1), (16,)) * 0.3}


def scaled_loss(params, x, y, scale):
    half = jax.tree.map(lambda p: p.astype(jnp.float16), params)
    out = jnp.tanh(x.astype(jnp.float16) @ half["w"]) @ half["v"]
    return jnp.mean((out.astype(jnp.float32) - y) ** 2) * scale


grad_fn = jax.jit(jax.value_and_grad(scaled_loss))
scale = 2.0 ** 22
for epoch in range(4):
    for i in range(0, 256, 32):
        loss, grads = grad_fn(params, x_all[i:i + 32], y_all[i:i + 32], scale)
        finite = all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
        if not finite:
            scale /= 2
            continue
        params = jax.tree.map(lambda p, g: p - 0.1 * g / scale, params, grads)
    print("epoch", epoch, "loss", float(loss) / scale, "scale", scale)
