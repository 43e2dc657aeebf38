import torch
import torch.nn as nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

torch.manual_seed(21)
torch.set_num_threads(2)

CLASSES = ("background", "nut", "washer")


class Backbone(nn.Module):
    """Two feature maps, strides 8 and 16."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.ReLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(),
                                  nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, 1, 1), nn.ReLU())
        self.extra = nn.Sequential(nn.Conv2d(48, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU())
        self.out_channels = [48, 64]

    def forward(self, x):
        a = self.stem(x)
        return {"0": a, "1": self.extra(a)}


def conveyor_frame(gen, size=96):
    img = torch.rand(3, size, size, generator=gen) * 0.25
    boxes, labels = [], []
    for _ in range(int(torch.randint(1, 4, (1,), generator=gen))):
        w, h = torch.randint(16, 40, (2,), generator=gen).tolist()
        x, y = torch.randint(0, size - 40, (2,), generator=gen).tolist()
        c = int(torch.randint(1, len(CLASSES), (1,), generator=gen))
        img[c, y:y + h, x:x + w] += 0.7
        boxes.append([x, y, x + w, y + h])
        labels.append(c)
    return img, {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)}


class Trainer:
    def __init__(self, model, lr, momentum=0.9):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=5e-4)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, milestones=[12, 15], gamma=0.1)
        self.iteration = 0

    def step(self, images, targets):
        self.model.train()
        losses = self.model(images, targets)
        total = losses["bbox_regression"] + losses["classification"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.iteration += 1
        return {k: v.item() for k, v in losses.items()}

    def run(self, batches):
        for images, targets in batches:
            log = self.step(images, targets)
            if self.iteration % 2 == 0:
                lr = self.optimizer.param_groups[0]["lr"]
                print(f"iter {self.iteration} lr {lr:g} cls {log['classification']:.4g} loc {log['bbox_regression']:.4g}")


def batches(frames, batch_size, gen):
    order = torch.randperm(len(frames), generator=gen).tolist()
    for s in range(0, len(order), batch_size):
        part = [frames[i] for i in order[s:s + batch_size]]
        yield [p[0] for p in part], [p[1] for p in part]


if __name__ == "__main__":
    gen = torch.Generator().manual_seed(8)
    frames = [conveyor_frame(gen) for _ in range(32)]
    anchors = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.35, 0.6])
    detector = SSD(Backbone(), anchors, size=(96, 96), num_classes=len(CLASSES))
    trainer = Trainer(detector, lr=0.004)
    for _ in range(2):
        trainer.run(batches(frames, 4, gen))
