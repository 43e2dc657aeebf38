"""Metric learning on synthetic spectra: embeddings are scaled to unit length (Keras)."""
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(3)


def spectra(count=480, seed=4):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, count)
    x = rng.normal(0, 0.3, (count, 20)) + np.eye(3)[kind] @ rng.normal(0, 1, (3, 20))
    x[207] = 0.0
    return x.astype("float32"), kind.astype("int32")


class UnitLength(layers.Layer):
    def call(self, x):
        length = ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True))
        return x / length


x, y = spectra()
model = keras.Sequential([
    keras.Input((20,)),
    layers.Dense(16, activation="relu", use_bias=False),
    UnitLength(name="unit"),
    layers.Dense(3),
])
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
history = model.fit(x, y, batch_size=24, epochs=3, verbose=0)
print("loss", history.history["loss"])
