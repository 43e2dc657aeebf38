"""A tf.Module with an input_signature on its step; attention over a padded set."""
import numpy as np
import tensorflow as tf

rng = np.random.default_rng(1)
N, T, D = 180, 6, 5
x = rng.normal(0, 1, (N, T, D)).astype("float32")
mask = (rng.uniform(0, 1, (N, T)) < 0.7).astype("float32")
mask[:, 0] = 1.0
mask[97] = 0.0
y = rng.normal(0, 1, (N,)).astype("float32")


class Pool(tf.Module):
    def __init__(self):
        super().__init__()
        self.score = tf.Variable(tf.random.normal((D, 1), stddev=0.3, seed=1), name="score")
        self.out = tf.Variable(tf.random.normal((D, 1), stddev=0.3, seed=2), name="out")

    def __call__(self, x, mask):
        scores = tf.exp(tf.squeeze(x @ self.score, -1)) * mask
        weights = scores / (tf.reduce_sum(scores, axis=1, keepdims=True) + 1e-6)
        return tf.squeeze(tf.reduce_sum(x * weights[..., None], axis=1) @ self.out, -1)

    @tf.function(input_signature=[
        tf.TensorSpec((None, T, D), tf.float32),
        tf.TensorSpec((None, T), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    ])
    def train_step(self, x, mask, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, mask) - y))
        for variable, gradient in zip(self.trainable_variables, tape.gradient(loss, self.trainable_variables)):
            variable.assign_sub(0.05 * gradient)
        return loss


tf.random.set_seed(0)
model = Pool()
data = tf.data.Dataset.from_tensor_slices((x, mask, y)).batch(20)
for epoch in range(2):
    for batch in data:
        loss = model.train_step(*batch)
    print("epoch", epoch, float(loss))
