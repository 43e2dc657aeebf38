"""A ranking model with a train_step of its own (Keras on TensorFlow)."""
import keras
import numpy as np
import tensorflow as tf
from keras import layers

keras.utils.set_random_seed(8)


class Ranker(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(24, activation="tanh")
        self.out = layers.Dense(1)

    def call(self, x):
        return self.out(self.hidden(x))

    def train_step(self, data):
        better, worse = data
        with tf.GradientTape() as tape:
            margin = self(better, training=True) - self(worse, training=True)
            chance = tf.sigmoid(40.0 * margin)
            loss = -tf.reduce_mean(tf.math.log(chance))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
        return {"loss": loss}


rng = np.random.default_rng(1)
better = rng.normal(0.2, 2.0, (512, 8)).astype("float32")
worse = rng.normal(-0.2, 2.0, (512, 8)).astype("float32")
model = Ranker()
model.compile(optimizer=keras.optimizers.Adam(5e-3))
history = model.fit(better, worse, batch_size=32, epochs=3, verbose=0)
print("loss", history.history["loss"])
