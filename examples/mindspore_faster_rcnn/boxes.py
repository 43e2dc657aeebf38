"""Boxes in NumPy: anchors, overlap, offsets, and what a network is to learn of them. Nothing here has a gradient."""

import numpy as np
from scenes import SIDE

STRIDE = 8
SIZES = (20.0, 32.0, 44.0)


def all_anchors():
    centers = (np.arange(SIDE // STRIDE) + 0.5) * STRIDE
    y, x = np.meshgrid(centers, centers, indexing="ij")
    half = np.array(SIZES) / 2
    x, y = (np.repeat(c.reshape(-1, 1), len(SIZES), axis=1) for c in (x, y))
    return np.stack([x - half, y - half, x + half, y + half], axis=-1).reshape(-1, 4).astype(np.float32)


def overlaps(a, b):
    """Intersection over union of each pair, (len(a), len(b))."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=-1)
    area = [(c[:, 2:] - c[:, :2]).prod(axis=-1) for c in (a, b)]
    return common / np.maximum(area[0][:, None] + area[1][None] - common, 1e-6)


def encode(boxes, references):
    size, of = boxes[:, 2:] - boxes[:, :2], references[:, 2:] - references[:, :2]
    shift = (boxes[:, :2] + size / 2 - references[:, :2] - of / 2) / of
    return np.concatenate([shift, np.log(size / of)], axis=1).astype(np.float32)


def decode(offsets, references):
    of = references[:, 2:] - references[:, :2]
    center = references[:, :2] + of / 2 + offsets[:, :2] * of
    half = of * np.exp(np.clip(offsets[:, 2:], -4, 2)) / 2
    return np.clip(np.concatenate([center - half, center + half], axis=1), 0, SIDE).astype(np.float32)


def suppress(boxes, scores, limit=0.7, keep=16):
    """Return the indices of the best boxes that overlap no better one by more than `limit`."""
    order, kept = np.argsort(-scores), []
    table = overlaps(boxes, boxes)
    for index in order:
        if len(kept) < keep and all(table[index, other] <= limit for other in kept):
            kept.append(index)
    return np.array(kept, np.int64)


def assign(references, boxes, labels, high, low, rng, count):
    """Return labels (0 background, -1 not looked at) and offsets of references for one picture's boxes."""
    table = overlaps(references, boxes)
    best = table.argmax(axis=1)
    found = np.where(table.max(axis=1) >= high, labels[best], np.where(table.max(axis=1) < low, 0, -1))
    found[table.argmax(axis=0)] = labels  # each object has at least one
    ground = np.flatnonzero(found == 0)
    spare = len(ground) - max(count - int((found > 0).sum()), 1)
    if spare > 0:
        found[rng.choice(ground, spare, replace=False)] = -1
    return found.astype(np.int32), encode(boxes[best], references)
