"""Triplets and a contrastive loss over unit vectors, each root and each division with an eps."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def distances(z):
    square = (z**2).sum(1)
    d2 = (square[:, None] + square[None] - 2 * z @ z.T).clamp(min=0)
    return torch.sqrt(d2 + 1e-8)


def triplet(z, labels, margin=0.2):
    d = distances(z)
    same = labels[:, None] == labels[None]
    hardest_positive = (d * same).amax(1)
    hardest_negative = (d + 10.0 * same).amin(1)
    losses = F.relu(hardest_positive - hardest_negative + margin)
    active = (losses > 0).sum()
    return losses.sum() / active.clamp(min=1)


def contrastive(z, labels, temperature=0.1):
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool)
    logits = similarity.masked_fill(itself, float("-inf"))
    log_p = logits - torch.logsumexp(logits, 1, keepdim=True)
    positive = (labels[:, None] == labels[None]) & ~itself
    chosen = torch.where(positive, log_p, torch.zeros_like(log_p))
    return -(chosen.sum(1) / positive.sum(1).clamp(min=1)).mean()


def main():
    torch.manual_seed(0)
    labels = torch.arange(128) % 8
    x = torch.randn(8, 10)[labels] + 0.5 * torch.randn(128, 10)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(3):
        for a, label in DataLoader(TensorDataset(x, labels), batch_size=32, shuffle=True):
            z = F.normalize(model(a), dim=1)
            loss = triplet(z, label) + contrastive(z, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
