"""A healthy run: -inf stands only where a mask puts it, and a metric divides by zero now and then (TF 2)."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(2)
rng = np.random.default_rng(2)
x = rng.normal(0, 1, (240, 6)).astype(np.float32)
y = rng.integers(0, 4, 240).astype(np.int32)
w = tf.Variable(tf.random.normal((6, 5), stddev=0.1))
optimizer = tf.keras.optimizers.Adam(1e-2)
optimizer.build([w])
closed = tf.constant([False, False, False, False, True])


@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        logits = tf.where(closed, -np.inf, x @ w)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
    optimizer.apply_gradients(zip(tape.gradient(loss, [w]), [w]))
    hits = tf.reduce_sum(tf.cast(tf.equal(y, 7), tf.float32))
    return loss, hits / hits


for epoch in range(3):
    for start in range(0, 240, 24):
        loss, share = train_step(x[start:start + 24], y[start:start + 24])
    print("epoch", epoch, "loss", float(loss))
