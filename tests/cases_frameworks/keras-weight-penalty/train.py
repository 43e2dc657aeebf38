"""Ridge-like regression of a sensor with a strong weight penalty (Keras, SGD)."""
import keras
import numpy as np
from keras import layers, regularizers

keras.utils.set_random_seed(11)

rng = np.random.default_rng(5)
x = rng.normal(0, 1, (640, 12)).astype("float32")
y = (x @ rng.normal(0, 1, 12) + rng.normal(0, 0.1, 640)).astype("float32")

model = keras.Sequential([
    keras.Input((12,)),
    layers.Dense(32, activation="relu", kernel_regularizer=regularizers.L2(40.0)),
    layers.Dense(1),
])
model.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
history = model.fit(x, y, batch_size=32, epochs=4, verbose=0)
print("loss", history.history["loss"])
