"""DeepLabv3 learns to separate coins from the ground, and is validated on the borders of the photograph.

The photograph comes with scikit-image. Pixels near an edge of a coin belong to nobody and are ignored by the loss.
"""

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from skimage.morphology import closing, dilation, erosion
from torch.utils.data import DataLoader, Dataset
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

VOID = 255
CROP = 64


class CoinMasks(Dataset):
    """Crops at given corners; what lies outside of the photograph is void."""

    def __init__(self, corners: list) -> None:
        photo = skimage.data.coins()
        coins = closing(photo > threshold_otsu(photo), np.ones((3, 3)))
        mask = coins.astype(np.int64)
        mask[dilation(coins) ^ erosion(coins)] = VOID
        self.photo = F.pad(torch.from_numpy(photo).float() / 255, (CROP,) * 4)
        self.mask = F.pad(torch.from_numpy(mask), (CROP,) * 4, value=VOID)
        self.corners = corners

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int):
        top, left = self.corners[index]
        window = (slice(top, top + CROP), slice(left, left + CROP))
        return self.photo[window].expand(3, -1, -1), self.mask[window]


def criterion(outputs, masks):
    known = (masks != VOID).sum().clamp(min=1)
    losses = {
        name: F.cross_entropy(scores, masks, ignore_index=VOID, reduction="sum") / known
        for name, scores in outputs.items()
    }
    return losses["out"] + 0.5 * losses.get("aux", 0.0)


def main() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    inside = [tuple(corner) for corner in rng.integers(CROP, (303, 384), size=(16, 2)).tolist()]
    border = [(top, left) for top in range(40, 367, 32) for left in (40, 384 + CROP)]
    training = DataLoader(CoinMasks(inside), batch_size=4, shuffle=True)
    validation = DataLoader(CoinMasks(border), batch_size=1)
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(2):
        model.train()
        for images, masks in training:
            loss = criterion(model(images), masks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        total = 0.0
        with torch.no_grad():
            for images, masks in validation:
                val_loss = criterion(model(images), masks)
                total += val_loss.item()
        print(f"epoch {epoch}  loss {loss.item():.4f}  validation loss {total / len(validation):.4f}", flush=True)


if __name__ == "__main__":
    main()
