"""Linear-probe style intent classifier, hinge loss and sharpness-aware minimisation."""
import torch
import torch.nn as nn

torch.manual_seed(21)


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kw):
        super().__init__(params, dict(rho=rho, **kw))
        self.base = base(self.param_groups, **kw)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self):
        norms = [p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]
        total = torch.stack(norms).norm()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                e = group["rho"] * p.grad / total
                p.add_(e)
                self.state[p]["e"] = e
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if "e" in self.state[p]:
                    p.sub_(self.state[p]["e"])
        self.base.step()
        self.zero_grad()


def make_utterances(n=360, dim=30):
    y = torch.randint(0, 2, (n,)) * 2.0 - 1
    x = torch.randn(n, dim)
    x[:, :6] += 1.1 * y[:, None]
    return x, y


x, y = make_utterances()
net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 1))
opt = SAM(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)


def hinge(xb, yb):
    return torch.clamp(1 - yb * net(xb).squeeze(1), min=0).mean()


for epoch in range(25):
    order = torch.randperm(len(x))
    epoch_loss = 0.0
    for batch in order.split(24):
        loss = hinge(x[batch], y[batch])
        loss.backward()
        opt.first_step()
        hinge(x[batch], y[batch]).backward()
        opt.second_step()
        epoch_loss += loss.item() * len(batch)
    if epoch % 4 == 0:
        with torch.no_grad():
            acc = (net(x).squeeze(1).sign() == y).float().mean()
        print(f"epoch {epoch:2d}  hinge {epoch_loss / len(x):.4f}  acc {acc:.3f}")
