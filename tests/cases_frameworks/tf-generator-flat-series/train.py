"""Fault detection on vibration series, normalised in the generator that feeds tf.data."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(1)
rng = np.random.default_rng(8)
raw = rng.normal(0, 1, (240, 32)).cumsum(1).astype("float32")
faulty = rng.integers(0, 2, 240).astype("float32")
raw += faulty[:, None] * np.sin(np.arange(32)) * 3
raw[118] = 0.25


def recordings():
    for series, label in zip(raw, faulty):
        series = (series - series.mean()) / series.std()
        yield series.astype("float32"), label


data = tf.data.Dataset.from_generator(recordings, output_signature=(tf.TensorSpec((32,)), tf.TensorSpec(()))).batch(16)
model = tf.keras.Sequential([tf.keras.Input((32,)), tf.keras.layers.Dense(24, activation="relu"), tf.keras.layers.Dense(1)])
optimizer = tf.keras.optimizers.Adam(2e-3)
bce = tf.keras.losses.BinaryCrossentropy(from_logits=True)

for epoch in range(3):
    for step, (x, y) in enumerate(data):
        with tf.GradientTape() as tape:
            loss = bce(y[:, None], model(x, training=True))
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
    print("epoch", epoch, "loss", float(loss))
