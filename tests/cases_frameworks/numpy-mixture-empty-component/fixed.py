"""Mixture of Gaussians in one dimension, expectation-maximisation in log space."""
import numpy as np

rng = np.random.default_rng(14)
points = np.concatenate([rng.normal(-4, 0.4, 300), rng.normal(0, 0.3, 300), rng.normal(5, 0.5, 300)])
mean = np.array([-4.5, 0.5, 4.0, 60.0])
variance = np.full(4, 0.5)
share = np.full(4, 0.25)


def log_density(x, mean, variance):
    return -0.5 * (np.log(2 * np.pi * variance) + (x[:, None] - mean) ** 2 / variance)


previous_loss = np.inf
for iteration in range(40):
    joint = log_density(points, mean, variance) + np.log(share + 1e-300)
    top = joint.max(axis=1, keepdims=True)
    likelihood = top[:, 0] + np.log(np.exp(joint - top).sum(axis=1))
    loss = -likelihood.mean()
    resp = np.exp(joint - likelihood[:, None])
    for j in range(4):
        weight = resp[:, j]
        mean[j] = (weight * points).sum() / max(weight.sum(), 1e-12)
        variance[j] = (weight * (points - mean[j]) ** 2).sum() / (weight.sum() + 1e-9)
        variance[j] = max(variance[j], 1e-3)
    share = resp.mean(axis=0)
    if iteration % 5 == 0:
        print(f"iteration {iteration:2d} loss {loss:.4f} change {previous_loss - loss:.5f}")
    previous_loss = loss
