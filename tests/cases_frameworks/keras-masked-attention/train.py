"""Sentence classification with attention pooling over padded tokens (Keras, tf.data)."""
import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

keras.utils.set_random_seed(6)
LENGTH, VOCAB = 10, 50


def sentences(count=400, seed=7):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCAB, (count, LENGTH))
    lengths = rng.integers(2, LENGTH + 1, count)
    lengths[263] = 0
    tokens[np.arange(LENGTH) >= lengths[:, None]] = 0
    return tokens.astype("int32"), (tokens.sum(1) % 2).astype("float32")


class Pool(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = layers.Dense(1)

    def call(self, x, tokens):
        scores = ops.squeeze(self.score(x), -1)
        scores = ops.where(ops.equal(tokens, 0), -np.inf, scores)
        weights = ops.softmax(scores, axis=-1)
        return ops.sum(x * weights[..., None], axis=1)


tokens = keras.Input((LENGTH,), dtype="int32")
x = layers.Embedding(VOCAB, 12)(tokens)
x = Pool(name="pool")(x, tokens)
model = keras.Model(tokens, layers.Dense(1)(x))
model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
data = tf.data.Dataset.from_tensor_slices(sentences()).shuffle(400, seed=1).batch(20)
history = model.fit(data, epochs=3, verbose=0)
print("loss", history.history["loss"])
