"""float16 regression with a hand-made loss scale (overflowing steps are skipped) and clipping."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(3)
rng = np.random.default_rng(3)
x_all = rng.normal(0, 1, (512, 12)).astype("float32")
y_all = (x_all @ rng.normal(0, 1, (12, 1))).astype("float32")
w1 = tf.Variable(tf.random.normal((12, 32), stddev=0.3))
w2 = tf.Variable(tf.random.normal((32, 1), stddev=0.2))
optimizer = tf.keras.optimizers.SGD(0.05)
scale = tf.Variable(2.0 ** 20)
good = tf.Variable(0)


@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        h = tf.nn.relu(tf.cast(x, tf.float16) @ tf.cast(w1, tf.float16))
        loss = tf.reduce_mean(tf.square(tf.cast(h @ tf.cast(w2, tf.float16), tf.float32) - y))
        scaled = loss * scale
    grads = tape.gradient(scaled, [w1, w2])
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in grads])
    if finite:
        grads, _ = tf.clip_by_global_norm([g / scale for g in grads], 1.0)
        optimizer.apply_gradients(zip(grads, [w1, w2]))
        good.assign_add(1)
    else:
        scale.assign(scale / 2)
    return loss


for epoch in range(4):
    for start in range(0, 512, 32):
        loss = step(x_all[start:start + 32], y_all[start:start + 32])
    print("epoch", epoch, "loss", float(loss), "scale", float(scale), "steps", int(good))
