"""Wine quality from a table, eager loop, batches cut by position."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(1)
rng = np.random.default_rng(1)
table = rng.normal(0, 1, (240, 7)).astype("float32")
quality = (table[:, :1] - table[:, 1:2]).astype("float32")
table[130, 3] = np.nan
model = tf.keras.Sequential([tf.keras.Input((7,)), tf.keras.layers.Dense(16, activation="tanh"), tf.keras.layers.Dense(1)])
optimizer = tf.keras.optimizers.Adam(1e-2)
for epoch in range(3):
    for start in range(0, 240, 24):
        x, y = table[start:start + 24], quality[start:start + 24]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
    print("epoch", epoch, "loss", float(loss))
