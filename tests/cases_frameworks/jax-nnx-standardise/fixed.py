"""A Flax NNX regressor that standardises each sample before its first layer."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Standardise(nnx.Module):
    def __call__(self, x):
        return (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + 1e-5)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.standardise = Standardise()
        self.hidden = nnx.Linear(16, 24, rngs=rngs)
        self.out = nnx.Linear(24, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(self.standardise(x))))


rng = np.random.default_rng(9)
x = rng.normal(0, 1, (320, 16)).astype(np.float32)
y = x[:, :1] * 2 + rng.normal(0, 0.1, (320, 1)).astype(np.float32)
x[199] = 0.25

model = Net(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss_fn(model):
        return jnp.mean((model(x) - y) ** 2)

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


for epoch in range(2):
    for start in range(0, 320, 32):
        loss = train_step(model, optimizer, x[start:start + 32], y[start:start + 32])
    print("epoch", epoch, "loss", float(loss))
