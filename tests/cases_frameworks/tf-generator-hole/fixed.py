import numpy as np
import tensorflow as tf

tf.random.set_seed(0)
rng = np.random.default_rng(3)
RECORDS = rng.normal(size=(640, 10)).astype("float32")
RECORDS[417, 6] = 0.0
TARGETS = (RECORDS[:, :1] * 2 - 1).astype("float32")


def records():
    for row, target in zip(RECORDS, TARGETS):
        yield row, target


dataset = tf.data.Dataset.from_generator(
    records,
    output_signature=(tf.TensorSpec((10,), tf.float32), tf.TensorSpec((1,), tf.float32)),
).batch(32).prefetch(2)


class Net(tf.Module):
    def __init__(self):
        self.w1 = tf.Variable(tf.random.normal((10, 32), stddev=0.3))
        self.b1 = tf.Variable(tf.zeros(32))
        self.w2 = tf.Variable(tf.random.normal((32, 1), stddev=0.2))

    def __call__(self, x):
        return tf.tanh(x @ self.w1 + self.b1) @ self.w2


net = Net()


@tf.function
def train_step(x, y, rate):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(net(x) - y))
    grads = tape.gradient(loss, net.trainable_variables)
    for v, g in zip(net.trainable_variables, grads):
        v.assign_sub(rate * g)
    return loss


for epoch in range(3):
    total = 0.0
    for x, y in dataset:
        total += float(train_step(x, y, tf.constant(0.05)))
    print(epoch, total / 20)
