"""A detector of one stage: box deltas clamped before exp, IoU with a floor, losses over the number of positives."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

SIZE, STRIDE = 64, 16
LIMIT = math.log(1000 / 16)


class Shapes(Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(3, SIZE, SIZE, generator=generator) * 0.2
        n = int(torch.randint(1, 4, (1,), generator=generator))
        corner = torch.rand(n, 2, generator=generator) * 40
        size = 6 + torch.rand(n, 2, generator=generator) * 16
        boxes = torch.cat([corner, corner + size], 1)
        for x1, y1, x2, y2 in boxes.int().tolist():
            image[:, y1:y2, x1:x2] = 0.9
        return image, boxes


def collate(batch):
    return torch.stack([image for image, _ in batch]), [boxes for _, boxes in batch]


def iou(a, b):
    top = torch.maximum(a[:, None, :2], b[None, :, :2])
    bottom = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (bottom - top).clamp(min=0).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    return inter / (area_a[:, None] + area_b[None] - inter).clamp(min=1e-6)


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        layers, width = [], 3
        for out in (16, 32, 32, 32):
            layers += [nn.Conv2d(width, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.body = nn.Sequential(*layers)
        self.objectness, self.deltas = nn.Conv2d(width, 1, 1), nn.Conv2d(width, 4, 1)
        nn.init.normal_(self.deltas.weight, std=0.01)
        steps = torch.arange(SIZE // STRIDE) * STRIDE + STRIDE / 2
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], -1).view(-1, 2))

    def forward(self, images):
        h = self.body(images)
        deltas = self.deltas(h).flatten(2).transpose(1, 2)
        centre = self.centres + deltas[..., :2] * 16.0
        size = deltas[..., 2:].clamp(max=LIMIT).exp() * 16.0
        return self.objectness(h).flatten(1), torch.cat([centre - size / 2, centre + size / 2], -1)


def loss_of(scores, boxes, targets, anchors):
    positive_losses, labels, n_positive = [], torch.zeros_like(scores), 0
    for number, target in enumerate(targets):
        overlap, which = iou(anchors, target).max(1)
        positive = overlap > 0.1
        labels[number, positive] = 1.0
        if positive.any():
            found = iou(boxes[number][positive], target).gather(1, which[positive][:, None])
            positive_losses.append((1 - found).sum())
            n_positive += int(positive.sum())
    objectness = F.binary_cross_entropy_with_logits(scores, labels)
    return objectness + sum(positive_losses) / max(n_positive, 1)


def main():
    torch.manual_seed(0)
    model = Detector()
    anchors = torch.cat([model.centres - 8, model.centres + 8], 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for epoch in range(2):
        for images, targets in DataLoader(Shapes(), batch_size=8, shuffle=True, collate_fn=collate):
            scores, boxes = model(images)
            loss = loss_of(scores, boxes, targets, anchors)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
