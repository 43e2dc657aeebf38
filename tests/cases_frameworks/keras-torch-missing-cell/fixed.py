import os
os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(3)


class Wells(keras.utils.PyDataset):
    def __init__(self, x, y, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return len(self.x) // self.batch_size

    def __getitem__(self, k):
        rows = slice(k * self.batch_size, (k + 1) * self.batch_size)
        return self.x[rows], self.y[rows]


rng = np.random.default_rng(1)
logs = rng.normal(size=(512, 12)).astype("float32")
logs[301, 4] = np.nan
logs = np.nan_to_num(logs)
facies = (logs[:, 0] + np.nan_to_num(logs[:, 4]) > 0).astype("int64")

model = keras.Sequential([keras.Input((12,)), layers.Dense(24, activation="tanh"), layers.Dense(2)])
model.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(Wells(logs, facies, 32), epochs=3, verbose=2)
