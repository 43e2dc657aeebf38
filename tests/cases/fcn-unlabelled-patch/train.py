import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.fcn import FCN, FCNHead

torch.manual_seed(90)
torch.set_num_threads(2)

IGNORE = 255


class SparseClicks(Dataset):
    """Coral reef patches labelled with random point clicks; a patch is a crop of a large survey image."""

    def __init__(self, n=72, size=32, classes=4, seed=32):
        g = torch.Generator().manual_seed(seed)
        survey = torch.randint(0, classes, (16, 16), generator=g)
        survey = survey.repeat_interleave(16, 0).repeat_interleave(16, 1)
        clicks = torch.full_like(survey, IGNORE)
        pts = torch.randint(0, 256, (420, 2), generator=g)
        clicks[pts[:, 0], pts[:, 1]] = survey[pts[:, 0], pts[:, 1]]
        color = torch.rand(classes, 3, generator=g)
        photo = color[survey].permute(2, 0, 1) + 0.1 * torch.randn(3, 256, 256, generator=g)
        self.patches = []
        for _ in range(n):
            y, x = torch.randint(0, 256 - size, (2,), generator=g).tolist()
            self.patches.append((photo[:, y:y + size, x:x + size], clicks[y:y + size, x:x + size]))

    def __len__(self):
        return len(self.patches)

    def __getitem__(self, i):
        return self.patches[i]


def make_fcn(classes):
    body = ResNet(BasicBlock, [1, 1, 1, 1])
    body = IntermediateLayerGetter(body, return_layers={"layer2": "out"})
    return FCN(body, FCNHead(128, classes))


def criterion(out, target):
    """Every patch counts the same, however many clicks it has."""
    pixel = F.cross_entropy(out, target, ignore_index=IGNORE, reduction="none")
    labelled = (target != IGNORE).float()
    per_patch = pixel.flatten(1).sum(dim=1) / labelled.flatten(1).sum(dim=1)
    return per_patch.mean()


def main():
    loader = DataLoader(SparseClicks(), batch_size=8, shuffle=True)
    model = make_fcn(4).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    total_iters = 2 * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda it: (1 - it / total_iters) ** 0.9)
    for epoch in range(2):
        mean = 0.0
        for img, target in loader:
            loss = criterion(model(img)["out"], target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            mean += loss.item() / len(loader)
        print(f"Epoch: [{epoch}] lr {scheduler.get_last_lr()[0]:.5f} loss {mean:.4f}")


if __name__ == "__main__":
    main()
