"""Laptop training: the whole regressor in float16 with a hand-written RMSprop."""
import torch
from torch import nn

torch.manual_seed(72)
torch.set_num_threads(1)


class HalfRMSprop:
    def __init__(self, params, lr=1e-3, alpha=0.9, eps=1e-3):
        self.params, self.lr, self.alpha, self.eps = list(params), lr, alpha, eps
        self.square = [torch.zeros_like(p) for p in self.params]

    def zero_grad(self):
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self):
        for p, v in zip(self.params, self.square):
            if p.grad is None:
                continue
            v.mul_(self.alpha).addcmul_(p.grad, p.grad, value=1 - self.alpha)
            p.sub_(self.lr * p.grad / (v.sqrt() + self.eps))


x = torch.randn(256, 10).half()
y = (x[:, :2].float().sum(1) * 0.01).half()
net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1)).half()
opt = HalfRMSprop(net.parameters())
for epoch in range(3):
    for idx in torch.randperm(256).split(32):
        loss = nn.functional.mse_loss(net(x[idx]).squeeze(1), y[idx])
        opt.zero_grad()
        loss.backward()
        opt.step()
    print(f"epoch {epoch} mse {loss.item():.5f}")
