"""Factorisation machine for click logs, hashed features (TensorFlow, raw variables)."""
import numpy as np
import tensorflow as tf

BUCKETS, FIELDS, K = 500, 6, 4
rng = np.random.default_rng(1)
features = (rng.zipf(1.6, (3000, FIELDS)) % BUCKETS).astype("int32")
effect = rng.normal(0, 0.7, BUCKETS)
clicks = (rng.uniform(size=3000) < 1 / (1 + np.exp(-effect[features].sum(1)))).astype("float32")

g = tf.random.Generator.from_seed(4)
bias = tf.Variable(0.0)
linear = tf.Variable(tf.zeros(BUCKETS))
latent = tf.Variable(g.normal((BUCKETS, K), stddev=0.05))
variables = [bias, linear, latent]
opt = tf.keras.optimizers.Adam(learning_rate=0.01, epsilon=0.0)


def forward(ids):
    onehot = tf.reduce_sum(tf.one_hot(ids, BUCKETS), axis=1)
    v = onehot @ latent
    pairs = 0.5 * tf.reduce_sum(v * v - tf.square(onehot) @ tf.square(latent), axis=1)
    return bias + tf.linalg.matvec(onehot, linear) + pairs


@tf.function
def step(ids, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, forward(ids)))
    grads = tape.gradient(loss, variables)
    opt.apply_gradients(zip(grads, variables))
    return loss


for epoch in range(3):
    losses = []
    for s in range(0, 3000, 100):
        losses.append(float(step(features[s:s + 100], clicks[s:s + 100])))
    print(epoch, np.mean(losses))
