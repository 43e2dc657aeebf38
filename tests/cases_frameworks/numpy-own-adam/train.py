"""Adam written by hand, for a small embedding table."""
import numpy as np

rng = np.random.default_rng(10)
table = rng.normal(0, 0.1, (20, 4))
words = rng.integers(0, 19, 400)
goal = rng.normal(0, 1, (20, 4))
m, v = np.zeros_like(table), np.zeros_like(table)
t = 0
for epoch in range(2):
    for start in range(0, 400, 40):
        ids = words[start:start + 40]
        error = table[ids] - goal[ids]
        loss = np.mean(error ** 2)
        grad = np.zeros_like(table)
        np.add.at(grad, ids, 2 * error / error.size)
        t += 1
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad ** 2
        table -= 0.01 * (m / (1 - 0.9 ** t)) / np.sqrt(v / (1 - 0.999 ** t))
    print("epoch", epoch, "loss", loss)
