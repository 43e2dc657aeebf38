"""Batches by hand: train_on_batch over a generator of measurements (Keras)."""
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(14)


def relative_error(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) / ops.abs(y_true))


def measurements(count=320, seed=12):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2.0, (count, 4)).astype("float32")
    y = (x.prod(axis=1, keepdims=True)).astype("float32")
    y[150] = 0.0
    return x, y


x, y = measurements()
model = keras.Sequential([keras.Input((4,)), layers.Dense(16, activation="relu"), layers.Dense(1)])
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=relative_error)
for epoch in range(2):
    for start in range(0, len(x), 32):
        loss = model.train_on_batch(x[start:start + 32], y[start:start + 32])
    print("epoch", epoch, "loss", loss)
