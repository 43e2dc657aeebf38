"""Triplet embedding, an eager loop with GradientTape (TF 2)."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(3)


def triplets(count=300, seed=6):
    rng = np.random.default_rng(seed)
    anchor = rng.normal(0, 1, (count, 10)).astype(np.float32)
    positive = anchor + rng.normal(0, 0.1, anchor.shape).astype(np.float32)
    negative = rng.normal(0, 1, anchor.shape).astype(np.float32)
    positive[118] = anchor[118]
    return anchor, positive, negative


def distance(a, b):
    return tf.sqrt(tf.reduce_sum(tf.square(a - b), axis=1) + 1e-12)


weight = tf.Variable(tf.random.normal((10, 4), stddev=0.3))
optimizer = tf.keras.optimizers.SGD(0.05)
dataset = tf.data.Dataset.from_tensor_slices(triplets()).batch(25)
for epoch in range(2):
    for anchor, positive, negative in dataset:
        with tf.GradientTape() as tape:
            near = distance(anchor @ weight, positive @ weight)
            far = distance(anchor @ weight, negative @ weight)
            loss = tf.reduce_mean(tf.nn.relu(near - far + 4.0))
        gradient = tape.gradient(loss, [weight])
        optimizer.apply_gradients(zip(gradient, [weight]))
    print("epoch", epoch, "loss", float(loss))
