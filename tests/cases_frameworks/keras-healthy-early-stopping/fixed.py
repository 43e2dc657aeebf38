"""A healthy run with a checkpoint of the best loss, NaN rows dropped by hand, and a nan metric (Keras)."""
import keras
import numpy as np
from keras import layers, ops

keras.utils.set_random_seed(2)
rng = np.random.default_rng(2)
x = rng.normal(0, 1, (400, 5)).astype("float32")
y = (x.sum(1) > 0).astype("float32")
x[5, 1] = np.nan
keep = np.isfinite(x).all(axis=1)
x, y = x[keep], y[keep]


def share_of_twos(y_true, y_pred):
    twos = ops.cast(ops.equal(y_true, 2.0), "float32")
    return ops.sum(twos * y_pred) / ops.sum(twos)


model = keras.Sequential([keras.Input((5,)), layers.Dense(8, activation="relu"), layers.Dense(1, activation="sigmoid")])
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=[share_of_twos])
stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=2)
history = model.fit(x, y, validation_split=0.2, epochs=3, verbose=0, callbacks=[stop])
print("loss", history.history["loss"][-1])
