"""A siamese network learns which drawings were made by the same hand, with a contrastive loss."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Pairs(Dataset):
    """Pairs of drawings, a noisy prototype for each writer, and whether both come from one writer."""

    def __init__(self, n_pairs: int, n_writers: int = 12, n_each: int = 30) -> None:
        prototypes = torch.randn(n_writers, 64)
        self.drawings = prototypes.repeat_interleave(n_each, dim=0) + 0.3 * torch.randn(n_writers * n_each, 64)
        self.writer = torch.arange(n_writers).repeat_interleave(n_each)
        same = torch.rand(n_pairs) < 0.5
        first = torch.randint(len(self.drawings), (n_pairs,))
        of_same_writer = self.writer[first] * n_each + torch.randint(n_each, (n_pairs,))
        anything = torch.randint(len(self.drawings), (n_pairs,))
        self.pairs = torch.stack([first, torch.where(same, of_same_writer, anything)], dim=1)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        first, second = self.pairs[index]
        same = self.writer[first] == self.writer[second]
        return self.drawings[first], self.drawings[second], same.float()


def contrastive_loss(a, b, same, margin: float = 1.0):
    distance = ((a - b).pow(2).sum(dim=1) + 1e-12).sqrt()
    return (same * distance.pow(2) + (1 - same) * (margin - distance).clamp(min=0).pow(2)).mean()


def main() -> None:
    torch.manual_seed(4)
    loader = DataLoader(Pairs(n_pairs=600), batch_size=16, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(3):
        total = 0.0
        for a, b, same in loader:
            loss = contrastive_loss(model(a), model(b), same)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch}  mean loss {total / len(loader):.4f}", flush=True)


if __name__ == "__main__":
    main()
