"""Four ordinary training loops that time themselves: python training.py WORKLOAD STEPS

Prints the median and the fastest step in milliseconds. The first three steps are not counted.
"""

import resource
import statistics
import sys
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

WARM_UP = 3


class Classifier(nn.Module):
    """An image classifier, a loss included."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=10)
        self.data = TensorDataset(torch.rand(64, 3, 64, 64), torch.arange(64) % 10)
        self.batch_size = 16

    def forward(self, images, labels):
        return F.cross_entropy(self.net(images), labels)


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = deeplabv3_mobilenet_v3_large(weights_backbone=None, num_classes=4)
        self.data = TensorDataset(torch.rand(16, 3, 96, 96), torch.randint(4, (16, 96, 96)))
        self.batch_size = 4

    def forward(self, images, masks):
        return F.cross_entropy(self.net(images)["out"], masks)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights_backbone=None, num_classes=3, min_size=160, max_size=160
        )
        corner = torch.rand(8, 2) * 80
        boxes = torch.cat([corner, corner + 60], dim=1)
        self.data = TensorDataset(torch.rand(8, 3, 160, 160), boxes, 1 + torch.arange(8) % 2)
        self.batch_size = 2

    def forward(self, images, boxes, labels):
        targets = [{"boxes": box[None], "labels": label[None]} for box, label in zip(boxes, labels)]
        return sum(self.net(list(images), targets).values())


class Language(nn.Module):
    """A small transformer that predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 96)
        layer = nn.TransformerEncoderLayer(96, 4, 192, dropout=0.1, batch_first=True)
        self.net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(96, 256)
        self.data = TensorDataset(torch.randint(256, (64, 49)))
        self.batch_size = 8

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(48)
        logits = self.head(self.net(self.embed(tokens[:, :-1]), mask=mask, is_causal=True))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


WORKLOADS = {"resnet18": Classifier, "deeplabv3": Segmenter, "fasterrcnn": Detector, "transformer": Language}


def batches(loader: DataLoader) -> Iterator[list[torch.Tensor]]:
    while True:
        yield from loader


def main() -> None:
    name, steps = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = WORKLOADS[name]()
    loader = DataLoader(model.data, batch_size=model.batch_size, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    ends = []
    for batch in batches(loader):
        loss = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(time.perf_counter())
        if len(ends) > steps + WARM_UP:
            break
    times = [1000 * (end - begin) for begin, end in zip(ends[WARM_UP:], ends[WARM_UP + 1 :])]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"step_ms {statistics.median(times):.3f} {min(times):.3f} resident_mib {resident:.0f}", flush=True)


if __name__ == "__main__":
    main()
