import torch
from torch import nn
import torchvision

torch.manual_seed(44)
torch.set_num_threads(2)


def roofs(n, size=32):
    """Aerial images of flat (0) and gabled (1) roofs."""
    y = torch.randint(0, 2, (n,))
    img = torch.rand(n, 3, size, size) * 0.2 + 0.4
    ramp = torch.linspace(-0.3, 0.3, 16)
    img[:, :, 8:24, 8:24] += torch.where(y[:, None] == 1, ramp, torch.full_like(ramp, 0.2))[:, None, None, :]
    return img, y


class RoofNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.block1 = torchvision.ops.Conv2dNormActivation(3, width, 3, 2, norm_layer=None)
        self.block2 = torchvision.ops.Conv2dNormActivation(width, 2 * width, 3, 2, norm_layer=None)
        self.fc = nn.Linear(2 * width * 64, 2)

    def forward(self, x):
        return self.fc(self.block2(self.block1(x)).flatten(1))


CONFIG = {"lr": 0.05, "momentum": 0.0, "weight_decay": 50.0, "batch": 16, "epochs": 10}

images, labels = roofs(192)
mean, std = images.mean(dim=(0, 2, 3), keepdim=True), images.std(dim=(0, 2, 3), keepdim=True)
images = (images - mean) / std

net = RoofNet()
decay = [p for p in net.parameters() if p.ndim > 1]
no_decay = [p for p in net.parameters() if p.ndim <= 1]
optimizer = torch.optim.SGD(
    [{"params": decay, "weight_decay": CONFIG["weight_decay"]}, {"params": no_decay, "weight_decay": 0.0}],
    lr=CONFIG["lr"], momentum=CONFIG["momentum"])
loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)

for epoch in range(CONFIG["epochs"]):
    perm = torch.randperm(len(images))
    correct, total = 0, 0.0
    for chunk in perm.split(CONFIG["batch"]):
        logits = net(images[chunk])
        loss = loss_fn(logits, labels[chunk])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chunk)
        correct += (logits.argmax(dim=1) == labels[chunk]).sum().item()
    print(f"epoch {epoch + 1:2d} loss {total / len(images):.5g} acc {correct / len(images):.3f}")
