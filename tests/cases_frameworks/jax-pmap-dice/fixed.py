"""Data-parallel segmentation with pmap over two host devices."""
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import functools

import jax
import jax.numpy as jnp
import numpy as np

rng = np.random.default_rng(9)
n_devices = jax.local_device_count()
N = 128
images = rng.normal(0, 1, (N, 8, 8)).astype(np.float32)
masks = (images > 0.3).astype(np.float32)
images[70], masks[70] = -30.0, 0.0


def dice(params, image, mask):
    p = jax.nn.relu(jnp.tanh(image * params["scale"] + params["shift"]))
    return 1.0 - 2.0 * jnp.sum(p * mask) / (jnp.sum(p) + jnp.sum(mask) + 1e-6)


def loss_fn(params, images, masks):
    return jax.vmap(dice, in_axes=(None, 0, 0))(params, images, masks).mean()


@functools.partial(jax.pmap, axis_name="devices")
def train_step(params, images, masks):
    loss, grads = jax.value_and_grad(loss_fn)(params, images, masks)
    grads = jax.lax.pmean(grads, "devices")
    loss = jax.lax.pmean(loss, "devices")
    return jax.tree_util.tree_map(lambda p, g: p - 0.05 * g, params, grads), loss


params = {"scale": jnp.full((n_devices,), 0.8), "shift": jnp.zeros((n_devices,))}
for epoch in range(2):
    for start in range(0, N, 16):
        part = (slice(start, start + 16),)
        shape = (n_devices, -1, 8, 8)
        params, loss = train_step(params, images[part].reshape(shape), masks[part].reshape(shape))
    print("epoch", epoch, "loss", float(loss[0]))
