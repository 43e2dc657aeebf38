"""A hand-written eager loop with a hand-written validation loss."""
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(0)
x = rng.uniform(0.2, 1, (160, 4)).astype("float32")
y = np.exp(x @ rng.normal(0, 0.5, 4)).astype("float32")
x_val = rng.uniform(0.2, 1, (60, 4)).astype("float32")
y_val = np.exp(x_val @ rng.normal(0, 0.5, 4)).astype("float32")
y_val[33] = 0.0

tf.random.set_seed(0)
w = tf.Variable(tf.random.normal((4, 1), stddev=0.1))
b = tf.Variable(tf.zeros((1,)))


def predict(x):
    return tf.nn.softplus(tf.matmul(x, w) + b)[:, 0]


def log_ratio(y, prediction):
    return tf.reduce_mean(tf.square(tf.math.log(prediction) - tf.math.log(tf.maximum(y, 1e-3))))


for epoch in range(2):
    for start in range(0, 160, 20):
        with tf.GradientTape() as tape:
            loss = log_ratio(y[start:start + 20], predict(x[start:start + 20]))
        for variable, gradient in zip((w, b), tape.gradient(loss, (w, b))):
            variable.assign_sub(0.05 * gradient)
    val_loss = 0.0
    for start in range(0, 60, 20):
        val_loss += float(log_ratio(y_val[start:start + 20], predict(x_val[start:start + 20]))) / 3
    print("epoch", epoch, "loss", float(loss), "validation", val_loss)
