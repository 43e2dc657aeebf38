"""Least squares on sensor data, mini-batches by permutation."""
import numpy as np

rng = np.random.default_rng(6)
readings = rng.normal(0, 1, (320, 7))
target = readings @ rng.normal(0, 1, 7)
readings[173, 4] = np.nan

w = np.zeros(7)
for epoch in range(3):
    order = rng.permutation(320)
    total = 0.0
    for start in range(0, 320, 16):
        idx = order[start:start + 16]
        xb = readings[idx]
        error = xb @ w - target[idx]
        loss = (error ** 2).mean()
        w = w - 0.05 * xb.T @ error / 16
        total += loss
    print("epoch", epoch, "loss", total / 20)
