"""Keras learns to find the coins of a photograph pixel by pixel, with a cross entropy of logits.

The photograph comes with scikit-image.
"""

import keras
import numpy as np
import skimage.data
from keras import layers
from skimage.filters import threshold_otsu

keras.utils.set_random_seed(0)
CROP = 32


def crops(n: int, seed: int):
    photo = skimage.data.coins()
    mask = photo > threshold_otsu(photo)
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, np.array(photo.shape) - CROP, size=(n, 2))
    windows = [(slice(y, y + CROP), slice(x, x + CROP)) for y, x in corners]
    images = np.stack([photo[window] for window in windows])[..., None].astype("float32")
    return images, np.stack([mask[window] for window in windows])[..., None].astype("float32")


images, masks = crops(256, seed=0)
model = keras.Sequential(
    [
        keras.Input((CROP, CROP, 1)),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(1, 1),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.BinaryCrossentropy(from_logits=True))
model.fit(images, masks, batch_size=16, epochs=2, verbose=2)
