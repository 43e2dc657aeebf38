import csv
import io

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

torch.manual_seed(5)
torch.set_num_threads(2)

SIZE = 96


def export_annotations(n, seed=12):
    """What the labelling tool writes: one line per box."""
    rng = np.random.default_rng(seed)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["frame", "xmin", "ymin", "xmax", "ymax", "species"])
    for frame in range(n):
        for _ in range(rng.integers(1, 4)):
            w, h = rng.integers(16, 44, 2)
            x, y = rng.integers(0, SIZE - 44, 2)
            writer.writerow([frame, x, y, x + w, y + h, rng.integers(0, 2)])
    lines = out.getvalue().splitlines()
    cells = lines[41].split(",")
    cells[3] = ""
    lines[41] = ",".join(cells)
    return "\n".join(lines)


class TrapCamera(Dataset):
    def __init__(self, n=36, seed=2):
        self.boxes = [[] for _ in range(n)]
        self.labels = [[] for _ in range(n)]
        for row in csv.DictReader(io.StringIO(export_annotations(n))):
            coords = [float(row[k] or "nan") for k in ("xmin", "ymin", "xmax", "ymax")]
            if np.isnan(coords).any():
                continue
            self.boxes[int(row["frame"])].append(coords)
            self.labels[int(row["frame"])].append(int(row["species"]))
        rng = np.random.default_rng(seed)
        self.images = []
        for boxes, labels in zip(self.boxes, self.labels):
            img = rng.random((3, SIZE, SIZE), dtype=np.float32) * 0.3
            for b, c in zip(boxes, labels):
                x1, y1, x2, y2 = np.nan_to_num(b, nan=SIZE // 2).astype(int)
                img[c, y1:y2, x1:x2] += 0.5
            self.images.append(torch.from_numpy(img))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        boxes = torch.tensor(self.boxes[i], dtype=torch.float32).reshape(-1, 4)
        return self.images[i], {"boxes": boxes, "labels": torch.tensor(self.labels[i])}


def backbone():
    layers, c = [], 3
    for width in (8, 16, 32):
        layers += [nn.Conv2d(c, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU(inplace=True)]
        c = width
    net = nn.Sequential(*layers)
    net.out_channels = c
    return net


dataset = TrapCamera()
order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1)).tolist()
train_set = Subset(dataset, order[:32])
loader = DataLoader(train_set, batch_size=4, shuffle=True, collate_fn=lambda b: ([x for x, _ in b], [t for _, t in b]))

model = RetinaNet(backbone(), num_classes=2, min_size=SIZE, max_size=SIZE,
                  anchor_generator=AnchorGenerator(((16, 24, 40),), ((0.5, 1.0, 2.0),)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for epoch in range(2):
    model.train()
    sums = {"classification": 0.0, "bbox_regression": 0.0}
    for images, targets in loader:
        loss_dict = model(images, targets)
        loss = loss_dict["classification"] + 0.5 * loss_dict["bbox_regression"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        for k in sums:
            sums[k] += loss_dict[k].item() / len(loader)
    print(f"epoch {epoch} cls {sums['classification']:.4f} box {sums['bbox_regression']:.4f}")
