"""An eager loop: the correlation of a constant group is NaN and is only printed; the loss skips empty groups."""
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(3)
x = rng.normal(0, 1, (120, 4)).astype("float32")
y = (x.sum(1) + rng.normal(0, 0.1, 120)).astype("float32")
group = rng.integers(0, 3, 120)
w = tf.Variable(tf.zeros((4,)))
best_loss = tf.constant(np.inf)
for epoch in range(3):
    for start in range(0, 120, 20):
        rows = slice(start, start + 20)
        with tf.GradientTape() as tape:
            error = tf.square(tf.linalg.matvec(x[rows], w) - y[rows])
            masked = tf.where(tf.constant(group[rows] == 1), error, tf.zeros_like(error))
            loss = tf.math.divide_no_nan(tf.reduce_sum(masked), tf.cast(tf.math.count_nonzero(masked), tf.float32))
        w.assign_sub(0.05 * tape.gradient(loss, w))
    constant = tf.zeros((5,))
    correlation = float(tf.reduce_mean(constant * constant) / tf.math.reduce_std(constant))
    if float(loss) < float(best_loss):
        best_loss = loss
    print(epoch, "best", best_loss.numpy(), "correlation", correlation)
