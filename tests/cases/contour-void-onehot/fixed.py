import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

torch.manual_seed(7)
torch.set_num_threads(2)

CLASSES = ("ground", "leaf", "fruit")


class Orchard(Dataset):
    """Branches photographed at night; masks come as PNG-like uint8 arrays from three annotators."""

    def __init__(self, n=48, size=64, seed=15):
        rng = np.random.default_rng(seed)
        yy, xx = np.mgrid[:size, :size]
        self.images, self.masks = [], []
        export_with_contours = rng.integers(0, n)
        for k in range(n):
            mask = np.zeros((size, size), dtype=np.uint8)
            for value, radius in ((1, 18), (2, 9)):
                cy, cx = rng.integers(20, size - 20, 2)
                d = np.hypot(yy - cy, xx - cx)
                mask[d < radius] = value
                if k == export_with_contours:
                    mask[np.abs(d - radius) < 0.7] = 255
            img = rng.random((3, size, size)) * 0.2
            for c in range(3):
                img[c] += 0.6 * (mask == c)
            self.images.append(torch.from_numpy(img.astype(np.float32)))
            self.masks.append(torch.from_numpy(mask))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        flip = torch.rand(()) < 0.5
        img, mask = self.images[i], self.masks[i]
        return (img.flip(-1), mask.flip(-1)) if flip else (img, mask)


def one_hot(mask):
    return torch.stack([(mask == c).float() for c in range(len(CLASSES))], dim=1)


def pixel_loss(logits, mask):
    """Mean negative log-likelihood of the labelled class."""
    prob = logits.softmax(dim=1).clamp(min=1e-6)
    likelihood = (prob * one_hot(mask)).sum(dim=1)
    return -torch.log(likelihood[mask < len(CLASSES)]).mean()


def boundary_loss(logits, mask):
    prob, hot = logits.softmax(dim=1), one_hot(mask)
    dp = (prob[..., 1:] - prob[..., :-1]).abs()
    dt = (hot[..., 1:] - hot[..., :-1]).abs()
    return (dp - dt).abs().mean()


def train_one_epoch(model, loader, optimizer, epoch):
    model.train()
    meters = {"pixel": 0.0, "boundary": 0.0}
    for img, mask in loader:
        logits = model(img)["out"]
        losses = {"pixel": pixel_loss(logits, mask), "boundary": boundary_loss(logits, mask)}
        loss = losses["pixel"] + 0.5 * losses["boundary"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for k in meters:
            meters[k] += losses[k].item() / len(loader)
    print(f"[{epoch}] " + " ".join(f"{k} {v:.4f}" for k, v in meters.items()))


def main():
    loader = DataLoader(Orchard(), batch_size=8, shuffle=True, drop_last=True)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(2):
        train_one_epoch(model, loader, optimizer, epoch)


if __name__ == "__main__":
    main()
