"""Single-shot box regression on small tiles, fed by a PyDataset."""
import math

import keras
import numpy as np
from keras import layers

keras.utils.set_random_seed(3)
SIDE = 24


class Tiles(keras.utils.PyDataset):
    def __init__(self, count=256, batch=16, anchor=8.0, **kw):
        super().__init__(**kw)
        rng = np.random.default_rng(5)
        self.batch, self.anchor, self.count = batch, anchor, count
        self.boxes = np.concatenate([rng.integers(2, 14, (count, 2)), rng.integers(4, 10, (count, 2))], 1).astype("float32")
        self.boxes[151, 3] = 0
        self.noise = rng.normal(0, 0.1, (count, SIDE, SIDE, 1)).astype("float32")
        self.order = np.random.default_rng(1).permutation(count)

    def __len__(self):
        return math.ceil(self.count / self.batch)

    def encode(self, box):
        center = (box[:2] + box[2:] / 2) / SIDE
        sizes = np.log(box[2:] / self.anchor)
        return np.concatenate([center, sizes])

    def __getitem__(self, index):
        rows = self.order[index * self.batch:(index + 1) * self.batch]
        images = self.noise[rows].copy()
        for image, (x, y, w, h) in zip(images, self.boxes[rows].astype(int)):
            image[y:y + h, x:x + w] += 1
        return images, np.stack([self.encode(box) for box in self.boxes[rows]])


model = keras.Sequential([keras.Input((SIDE, SIDE, 1)), layers.Conv2D(12, 3, strides=2, activation="relu"),
                          layers.Conv2D(24, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(4)])
model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="mse")
model.fit(Tiles(), epochs=3, verbose=2)
