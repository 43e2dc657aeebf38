"""Detection-style regression on noisy crops; the occasional update with a gradient norm that is no number is left out."""
import torch
from torch import nn

torch.manual_seed(8)
torch.set_num_threads(2)
net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 4))
opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
n_left_out = 0
for step in range(150):
    img = torch.rand(8, 1, 16, 16)
    box = torch.rand(8, 4)
    if step % 37 == 20:
        img[3] = 0.0
    pred = net(img)
    contrast = (img - img.mean((2, 3), keepdim=True)).pow(2).sum((1, 2, 3)).sqrt()
    weight = torch.sqrt(pred.abs().sum(1) * contrast)
    loss = (pred - box).abs().mean() + 1e-3 * weight.mean()
    opt.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    if not torch.isfinite(norm):
        n_left_out += 1
        continue
    opt.step()
    if step % 30 == 0:
        print(step, f"{loss.item():.4f}", "left out:", n_left_out)
