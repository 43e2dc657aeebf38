"""Two-layer regression by hand, momentum SGD."""
import numpy as np

rng = np.random.default_rng(2)
x = rng.normal(0, 1, (400, 10))
y = (x @ rng.normal(0, 1, (10, 1))) ** 2


class Net:
    def __init__(self):
        self.w1 = rng.normal(0, 0.4, (10, 32))
        self.w2 = rng.normal(0, 0.3, (32, 1))
        self.v1 = np.zeros_like(self.w1)
        self.v2 = np.zeros_like(self.w2)

    def loss_and_gradients(self, x, y):
        h = np.maximum(x @ self.w1, 0)
        error = h @ self.w2 - y
        g2 = h.T @ error * (2 / len(x))
        g1 = x.T @ ((error @ self.w2.T) * (h > 0)) * (2 / len(x))
        return np.mean(error ** 2), g1, g2

    def step(self, g1, g2, lr):
        self.v1 = 0.9 * self.v1 - lr * g1
        self.v2 = 0.9 * self.v2 - lr * g2
        self.w1 = self.w1 + self.v1
        self.w2 = self.w2 + self.v2


def main():
    net = Net()
    for epoch in range(5):
        for start in range(0, 400, 20):
            loss, g1, g2 = net.loss_and_gradients(x[start:start + 20], y[start:start + 20])
            net.step(g1, g2, lr=0.5)
        print("epoch", epoch, "loss", loss)


main()
