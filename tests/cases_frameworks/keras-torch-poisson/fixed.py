import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(3)


def poisson_deviance(y_true, y_pred):
    return ops.mean(2 * (y_true * ops.log(ops.maximum(y_true, 1e-7) / y_pred) - (y_true - y_pred)), axis=-1)


def claims(n=600):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8)).astype("float32")
    rate = np.exp(0.4 * x[:, 0] + 0.9)
    y = rng.poisson(rate).astype("float32")[:, None]
    return x, y


x, y = claims()
model = keras.Sequential([keras.Input((8,)), layers.Dense(32, activation="relu"), layers.Dense(1, activation="softplus")])
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=poisson_deviance)
model.fit(x, y, batch_size=32, epochs=3, verbose=2)
