import os

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import ops

rng = np.random.default_rng(6)
x = rng.normal(0, 1, (200, 4)).astype("float32")
y = rng.dirichlet([2, 2, 2], 200).astype("float32")
x_val = rng.normal(0, 1, (60, 4)).astype("float32")
y_val = rng.dirichlet([2, 2, 2], 60).astype("float32")
y_val[41] = (1.0, 0.0, 0.0)


def divergence(y_true, y_pred):
    """Kullback-Leibler divergence of the annotators' votes from the prediction."""
    return ops.sum(y_true * (ops.log(ops.maximum(y_true, 1e-7)) - ops.log(y_pred)), axis=-1)


keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((4,)),
    keras.layers.Dense(8, activation="tanh"),
    keras.layers.Dense(3, activation="softmax"),
])
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=divergence)
history = model.fit(x, y, batch_size=25, epochs=2, validation_data=(x_val, y_val), validation_batch_size=20, verbose=0)
print(history.history["loss"], history.history["val_loss"])
