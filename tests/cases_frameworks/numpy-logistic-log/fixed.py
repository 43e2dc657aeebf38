"""Logistic regression by hand on raw blood values."""
import numpy as np

rng = np.random.default_rng(4)
x = np.stack([rng.normal(140, 4, 500), rng.normal(4.2, 0.4, 500), rng.normal(90, 25, 500)], axis=1)
x = (x - x.mean(axis=0)) / x.std(axis=0)
y = (x[:, 2] + rng.normal(0, 10, 500) > 95).astype(float)


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def cross_entropy(p, y):
    return -np.mean(y * np.log(p + 1e-12) + (1 - y) * np.log(1 - p + 1e-12))


weights = np.zeros(3)
for epoch in range(20):
    for start in range(0, 500, 50):
        xb, yb = x[start:start + 50], y[start:start + 50]
        p = sigmoid(xb @ weights)
        loss = cross_entropy(p, yb)
        weights -= 0.05 * xb.T @ (p - yb) / len(yb)
    print("epoch", epoch, "loss", loss)
