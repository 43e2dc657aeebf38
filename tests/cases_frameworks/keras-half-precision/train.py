"""Counts per region, mixed precision without loss scaling for a quick look (Keras)."""
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(21)
keras.mixed_precision.set_global_policy("mixed_float16")

rng = np.random.default_rng(2)
x = rng.normal(0, 1, (512, 16)).astype("float32")
y = rng.poisson(3, 512).astype("float32")


class Energy(layers.Layer):
    def call(self, x):
        scaled = x * 90.0
        return x * ops.sum(scaled * scaled, axis=-1, keepdims=True) * 1e-4


model = keras.Sequential([
    keras.Input((16,)),
    layers.Dense(64, activation="relu"),
    Energy(),
    layers.Dense(1, dtype="float32"),
])
model.compile(optimizer=keras.optimizers.SGD(1e-3), loss="mse")
history = model.fit(x, y, batch_size=32, epochs=3, verbose=0)
print("loss", history.history["loss"])
