"""Pictures of discs and boards on a noisy ground, drawn with Pillow, and where they lie."""

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
CLASSES = ("background", "disc", "board")


class Scenes:
    """`scenes[i]` is (picture, boxes, labels): (3, SIDE, SIDE) from 0 to 1, (n, 4) as x1, y1, x2, y2, and (n,).

    `blank` is the index of a picture that is one grey throughout, as a camera gives behind a closed lens.
    """

    def __init__(self, count=32, seed=0, blank=None):
        rng = np.random.default_rng(seed)
        self.items = [self.draw(rng) for _ in range(count)]
        if blank is not None:
            picture, boxes, labels = self.items[blank]
            self.items[blank] = np.full_like(picture, 0.5), boxes, labels

    @staticmethod
    def draw(rng):
        ground = rng.integers(20, 70)
        picture = Image.new("RGB", (SIDE, SIDE), (ground, ground + 10, ground + 20))
        pen = ImageDraw.Draw(picture)
        boxes, labels = [], []
        for cell in rng.permutation(4)[: rng.integers(1, 4)]:  # one object a quarter: none hides another
            w, h = rng.integers(18, 40, 2)
            x = cell % 2 * 48 + rng.integers(0, 48 - w)
            y = cell // 2 * 48 + rng.integers(0, 48 - h)
            color = tuple(int(c) for c in rng.integers(120, 255, 3))
            label = int(rng.integers(1, 3))
            (pen.ellipse if label == 1 else pen.rectangle)((x, y, x + w - 1, y + h - 1), fill=color)
            boxes.append((x, y, x + w, y + h))
            labels.append(label)
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        pixels = np.clip(pixels + rng.normal(0, 0.03, pixels.shape), 0, 1).astype(np.float32)
        return pixels, np.array(boxes, np.float32), np.array(labels, np.int32)

    def __getitem__(self, index):
        return self.items[index]

    def __len__(self):
        return len(self.items)
