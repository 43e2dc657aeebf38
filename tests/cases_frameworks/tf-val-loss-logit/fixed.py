import numpy as np
import tensorflow as tf

tf.keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)


def make(n, shift=0.0):
    x = rng.normal(size=(n, 12)).astype("float32")
    y = (x[:, 0] - x[:, 1] > 0).astype("float32")[:, None]
    return x + shift * x * 40, y


train_x, train_y = make(512)
val_x, val_y = make(128, shift=1.0)
model = tf.keras.Sequential([
    tf.keras.layers.Dense(32, activation="relu"),
    tf.keras.layers.Dense(1, activation="sigmoid"),
])
optimizer = tf.keras.optimizers.Adam(5e-3)


def cross_entropy(y, p):
    return -tf.reduce_mean(y * tf.math.log(tf.clip_by_value(p, 1e-7, 1 - 1e-7)) + (1 - y) * tf.math.log(1 - tf.clip_by_value(p, 1e-7, 1 - 1e-7)))


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x, training=True))
    grads = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    return loss


@tf.function
def val_step(x, y):
    return cross_entropy(y, model(x, training=False))


for epoch in range(4):
    order = rng.permutation(len(train_x))
    for k in range(0, 512, 32):
        rows = order[k:k + 32]
        loss = train_step(train_x[rows], train_y[rows])
    val_loss = val_step(val_x, val_y)
    print(f"epoch {epoch} loss {loss.numpy():.4f} val_loss {val_loss.numpy():.4f}")
