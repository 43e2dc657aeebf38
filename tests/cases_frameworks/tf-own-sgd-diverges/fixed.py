"""Linear regression with updates by hand in a tf.function (TF 2)."""
import numpy as np
import tensorflow as tf

tf.random.set_seed(4)
rng = np.random.default_rng(4)
x = rng.normal(0, 3, (512, 8)).astype(np.float32)
y = (x @ rng.normal(0, 1, (8, 1)) + rng.normal(0, 0.1, (512, 1))).astype(np.float32)


class Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.w1 = tf.Variable(tf.random.normal((8, 16), stddev=0.3))
        self.w2 = tf.Variable(tf.random.normal((16, 1), stddev=0.3))

    def __call__(self, x):
        return tf.nn.relu(x @ self.w1) @ self.w2


@tf.function
def train_step(net, x, y, rate):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(net(x) - y))
    for variable, gradient in zip(net.trainable_variables, tape.gradient(loss, net.trainable_variables)):
        variable.assign_sub(rate * gradient)
    return loss


net = Net()
for epoch in range(4):
    for start in range(0, 512, 32):
        loss = train_step(net, x[start:start + 32], y[start:start + 32], tf.constant(0.002))
    print("epoch", epoch, "loss", float(loss))
