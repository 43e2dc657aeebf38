"""A two-layer network in NumPy tells brick from grass from gravel.

The three photographs come with scikit-image; each sample is a random crop of one of them.
"""

import numpy as np
import skimage.data

CROP, HIDDEN, CLASSES = 12, 48, 3
rng = np.random.default_rng(0)


def crops(n: int):
    """Grey values as they are in the files, 0 to 255."""
    photos = [skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()]
    labels = rng.integers(0, CLASSES, n)
    corners = rng.integers(0, 512 - CROP, size=(n, 2))
    images = [photos[k][y : y + CROP, x : x + CROP].ravel() for k, (y, x) in zip(labels, corners)]
    return np.stack(images).astype(np.float32), labels


def softmax(scores):
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


images, labels = crops(600)
w1 = rng.normal(0, 0.1, (CROP * CROP, HIDDEN)).astype(np.float32)
w2 = rng.normal(0, 0.3, (HIDDEN, CLASSES)).astype(np.float32)
lr, batch = 1e-5, 20

for epoch in range(4):
    order = rng.permutation(len(images))
    losses = []
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        x, y = images[rows], labels[rows]
        hidden = np.maximum(x @ w1, 0)
        p = softmax(hidden @ w2)
        loss = -np.log(p[np.arange(len(rows)), y] + 1e-8).mean()
        losses.append(loss)
        error = (p - np.eye(CLASSES, dtype=np.float32)[y]) / len(rows)
        back = (error @ w2.T) * (hidden > 0)
        w2 -= lr * hidden.T @ error
        w1 -= lr * x.T @ back
    print(f"epoch {epoch}  loss {np.mean(losses):.4f}", flush=True)
