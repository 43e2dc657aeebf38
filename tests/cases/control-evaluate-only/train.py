"""Scores a ranking model on held-out queries and reports metrics; nothing is trained here."""
import math

import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
FEATURES, DOCS = 12, 10


class Queries(Dataset):
    def __init__(self, n=200, seed=80):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, DOCS, FEATURES, generator=g)
        self.relevance = torch.poisson(torch.rand(n, DOCS, generator=g) * 0.6, generator=g)
        self.length = torch.randint(2, DOCS + 1, (n,), generator=g)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        absent = torch.arange(DOCS) >= self.length[i]
        return {"x": self.x[i], "relevance": self.relevance[i].masked_fill(absent, 0.0), "absent": absent}


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


def ndcg(scores, relevance):
    discount = 1.0 / torch.log2(torch.arange(2, DOCS + 2).float())
    gain = 2.0 ** relevance - 1.0
    dcg = (gain.gather(1, scores.argsort(1, descending=True)) * discount).sum(1)
    ideal = (gain.sort(1, descending=True).values * discount).sum(1)
    return dcg / ideal


def main():
    torch.manual_seed(80)
    model = Ranker().eval()
    values, losses = [], []
    with torch.inference_mode():
        for batch in DataLoader(Queries(), batch_size=40):
            scores = model(batch["x"]).masked_fill(batch["absent"], -math.inf)
            values.append(ndcg(scores, batch["relevance"]))
            top = batch["relevance"].argmax(1)
            losses.append(nn.functional.cross_entropy(scores, top).item())
    values = torch.cat(values)
    print(f"queries without a relevant document: {int(values.isnan().sum())}")
    print(f"ndcg {values.nanmean().item():.4f} listwise loss {sum(losses) / len(losses):.4f}")


if __name__ == "__main__":
    main()
