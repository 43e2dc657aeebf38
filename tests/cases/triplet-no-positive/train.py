import random
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

random.seed(13); torch.manual_seed(13); torch.set_num_threads(1)


class Faces(Dataset):
    def __init__(self, ids=60):
        self.items = []
        for person in range(ids):
            centre = torch.randn(20)
            for _ in range(random.choice([1, 1, 2, 4, 6])):
                self.items.append((centre + 0.3 * torch.randn(20), person))

    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]


class IdentityBatches(Sampler):
    """p identities a batch, up to k pictures of each."""

    def __init__(self, items, p=4, k=3, batches=60):
        self.by_id = {}
        for i, (_, person) in enumerate(items):
            self.by_id.setdefault(person, []).append(i)
        self.p, self.k, self.batches = p, k, batches

    def __len__(self): return self.batches

    def __iter__(self):
        for _ in range(self.batches):
            people = random.sample(sorted(self.by_id), self.p)
            yield [i for q in people for i in random.sample(self.by_id[q], min(self.k, len(self.by_id[q])))]


def batch_hard(emb, who, margin=0.3):
    dist = torch.cdist(emb, emb)
    same = who[:, None] == who[None]
    eye = torch.eye(len(who), dtype=torch.bool)
    has_pos = (same & ~eye).any(1)
    hardest_pos = dist.masked_fill(~same | eye, 0).amax(1)
    hardest_neg = dist.masked_fill(same, 1e6).amin(1)
    return F.relu(hardest_pos - hardest_neg + margin)[has_pos].mean()


if __name__ == "__main__":
    faces = Faces()
    loader = DataLoader(faces, batch_sampler=IdentityBatches(faces.items))
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(4):
        meter = []
        for x, who in loader:
            loss = batch_hard(F.normalize(net(x)), who)
            opt.zero_grad()
            loss.backward()
            opt.step()
            meter.append(loss.item())
        print(epoch, sum(meter) / len(meter))
