"""Relative rotation of two frames, angle as loss (TF 2, tf.function)."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(6)


def directions(count=256, seed=2):
    rng = np.random.default_rng(seed)
    d = rng.normal(0, 1, (count, 3))
    return (d / np.linalg.norm(d, axis=1, keepdims=True)).astype(np.float32)


def angle_loss(predicted, target):
    predicted = predicted / tf.norm(predicted, axis=1, keepdims=True)
    cosine = tf.reduce_sum(predicted * target, axis=1)
    return tf.reduce_mean(tf.acos(tf.clip_by_value(cosine, -0.999, 0.999)))


@tf.function
def train_step(model, optimizer, x):
    with tf.GradientTape() as tape:
        loss = angle_loss(x @ model, x)
    gradient = tape.gradient(loss, [model])
    optimizer.apply_gradients(zip(gradient, [model]))
    return loss


x = directions()
model = tf.Variable(tf.eye(3) * 1.5)
optimizer = tf.keras.optimizers.Adam(1e-3)
optimizer.build([model])
for epoch in range(3):
    for start in range(0, len(x), 32):
        loss = train_step(model, optimizer, tf.constant(x[start:start + 32]))
    print("epoch", epoch, "angle", float(loss))
