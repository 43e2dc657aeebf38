import numpy as np
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

torch.manual_seed(2)
torch.set_num_threads(2)
rng = np.random.default_rng(2)

SIZE, ADC_BITS = 96, 16


def acquire(n):
    """Fluorescence frames of the 16-bit camera with their nucleus masks."""
    yy, xx = np.mgrid[:SIZE, :SIZE]
    stack = []
    for _ in range(n):
        frame = rng.normal(2200.0, 300.0, (SIZE, SIZE))
        masks, boxes = [], []
        for _ in range(rng.integers(1, 4)):
            r = rng.integers(9, 18)
            cy, cx = rng.integers(r, SIZE - r, 2)
            m = (yy - cy) ** 2 + (xx - cx) ** 2 <= r * r
            frame[m] += rng.uniform(15000, 45000)
            masks.append(m)
            boxes.append([cx - r, cy - r, cx + r + 1, cy + r + 1])
        frame = np.clip(frame, 0, 2 ** ADC_BITS - 1).astype(np.uint16)
        stack.append((frame, np.stack(masks), np.array(boxes, dtype=np.float32)))
    return stack


def to_sample(item):
    frame, masks, boxes = item
    img = torch.from_numpy(frame.astype(np.float32) / (2 ** ADC_BITS - 1)).expand(3, -1, -1)
    return img, {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.ones(len(boxes), dtype=torch.int64),
        "masks": torch.from_numpy(masks.astype(np.uint8)),
    }


def build():
    body = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
                         nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
    body.out_channels = 32
    return MaskRCNN(
        body, num_classes=2, min_size=SIZE, max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((20, 34),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2), mask_roi_pool=MultiScaleRoIAlign(["0"], 8, 2),
        rpn_pre_nms_top_n_train=150, rpn_post_nms_top_n_train=40, box_batch_size_per_image=24,
        image_mean=[0.5] * 3, image_std=[0.25] * 3)


cells = acquire(20)
model = build().train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
step = 0
for epoch in range(2):
    for start in range(0, len(cells), 4):
        picked = rng.choice(len(cells), 4, replace=False)
        images, targets = zip(*[to_sample(cells[i]) for i in picked])
        loss_dict = model(list(images), list(targets))
        losses = sum(loss for loss in loss_dict.values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        step += 1
        if step % 2 == 0:
            print(step, " ".join(f"{k.removeprefix('loss_')} {v.item():.4g}" for k, v in loss_dict.items()))
