import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

rng = np.random.default_rng(0)
images = rng.random((256, 16, 16, 1)).astype(np.float32)
images[:, :, :4] = 0
targets = images.mean((1, 2, 3)) * 3


class GemPool(nn.Module):
    """Generalised-mean pooling."""

    @nn.compact
    def __call__(self, x):
        p = self.param("p", nn.initializers.constant(3.0), ())
        return jnp.mean(x ** p, axis=(1, 2)) ** (1.0 / p)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = GemPool()(x)
        return nn.Dense(1)(x)[:, 0]


def create(key):
    net = Net()
    params = net.init(key, images[:1])
    return train_state.TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(1e-2))


@jax.jit
def train_step(state, x, y):
    def loss_fn(params):
        return jnp.mean((state.apply_fn(params, x) - y) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


state = create(jax.random.PRNGKey(1))
for epoch in range(5):
    for k in range(0, 256, 32):
        state, loss = train_step(state, images[k:k + 32], targets[k:k + 32])
    print(epoch, loss)
