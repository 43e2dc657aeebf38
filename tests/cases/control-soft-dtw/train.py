"""Learning a prototype of heartbeats under soft dynamic time warping."""
import torch

torch.set_num_threads(2)
torch.manual_seed(19)
LENGTH = 14


def soft_min(a, b, c, gamma):
    return -gamma * torch.logsumexp(torch.stack([a, b, c]) / -gamma, dim=0)


def soft_dtw(x, y, gamma=0.5):
    """x: (T,), y: (N, T); the border of the table is infinite except for its corner."""
    n, t = y.shape
    cost = (x[None, :, None] - y[:, None, :]) ** 2
    border = torch.full((n,), float("inf"))
    previous = [torch.zeros(n)] + [border] * t
    for i in range(t):
        row = [border]
        for j in range(t):
            row.append(cost[:, i, j] + soft_min(previous[j], previous[j + 1], row[j], gamma))
        previous = row
    return previous[-1]


def heartbeats(n):
    t = torch.linspace(-1, 1, LENGTH)
    shift = 0.3 * torch.randn(n, 1)
    return torch.exp(-((t + shift) / 0.2) ** 2) - 0.3 * torch.exp(-((t + shift - 0.4) / 0.15) ** 2)


beats = heartbeats(60)
prototype = beats.mean(0).clone().requires_grad_()
optimizer = torch.optim.Adam([prototype], lr=0.05)
best, patience = float("inf"), 0
for step in range(15):
    loss = soft_dtw(prototype, beats[torch.randperm(60)[:12]]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    patience = 0 if loss.item() < best else patience + 1
    best = min(best, loss.item())
    print(f"step {step} soft-dtw {loss.item():.4f} best {best:.4f}")
    if patience > 8:
        break
