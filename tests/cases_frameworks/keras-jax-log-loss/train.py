"""A small classifier with a cross-entropy of its own (Keras on JAX)."""
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(9)


def blobs(count=600, seed=3):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 4, count)
    x = rng.normal(0, 1, (count, 8)) + 900 * np.eye(8)[kind]
    return x.astype("float32"), kind.astype("int32")


def cross_entropy(y_true, y_pred):
    one_hot = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), 4)
    return -ops.sum(one_hot * ops.log(y_pred), axis=-1)


x, y = blobs()
model = keras.Sequential([
    keras.Input((8,)),
    layers.Dense(32, activation="relu"),
    layers.Dense(4, activation="softmax", name="probs"),
])
model.compile(optimizer=keras.optimizers.SGD(0.01), loss=cross_entropy)
history = model.fit(x, y, batch_size=30, epochs=3, verbose=0)
print("loss", history.history["loss"])
