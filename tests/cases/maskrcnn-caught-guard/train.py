import sys

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)


class Blobs(Dataset):
    def __init__(self, n=24, size=64):
        g = torch.Generator().manual_seed(4)
        self.size = size
        self.centre = torch.randint(16, size - 16, (n, 2), generator=g)
        self.radius = torch.randint(5, 12, (n,), generator=g)
        self.radius[17] = 0

    def __len__(self):
        return len(self.centre)

    def __getitem__(self, i):
        yy, xx = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        mask = ((yy - self.centre[i, 0]).abs() <= self.radius[i]) & ((xx - self.centre[i, 1]).abs() <= self.radius[i])
        ys, xs = mask.nonzero(as_tuple=True)
        box = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()]).float()[None]
        image = mask.float().expand(3, -1, -1) * 0.7 + 0.1 * torch.rand(3, self.size, self.size)
        return image, {"boxes": box, "labels": torch.ones(1, dtype=torch.long), "masks": mask[None].to(torch.uint8)}


backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
backbone.out_channels = 32
model = MaskRCNN(backbone, 2, min_size=64, max_size=64,
                 rpn_anchor_generator=AnchorGenerator(((8, 16, 24),), ((1.0,),)),
                 box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2), mask_roi_pool=MultiScaleRoIAlign(["0"], 8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
loader = DataLoader(Blobs(), batch_size=2, shuffle=True, collate_fn=lambda b: tuple(zip(*b)))
for epoch in range(2):
    for step, (images, targets) in enumerate(loader):
        try:
            losses = model(list(images), list(targets))
        except Exception as error:
            print(f"epoch {epoch} step {step}: {error}", file=sys.stderr)
            sys.exit(1)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, {k: round(v.item(), 3) for k, v in losses.items()})
