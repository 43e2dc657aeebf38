"""Tabular regression with a hole in the table (Keras on JAX)."""
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(19)
rng = np.random.default_rng(8)
x = rng.normal(0, 1, (480, 6)).astype("float32")
y = (x @ rng.normal(0, 1, 6)).astype("float32")
x[301, 2] = np.nan

model = keras.Sequential([keras.Input((6,)), layers.Dense(16, activation="relu"), layers.Dense(1)])
model.compile(optimizer="adam", loss="mse")
history = model.fit(x, y, batch_size=32, epochs=2, verbose=0)
print("loss", history.history["loss"])
