"""Graph regression on small molecules with a hand-written graph convolution."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
ATOMS = 5


class Molecules(Dataset):
    def __init__(self, n=300, seed=66):
        g = torch.Generator().manual_seed(seed)
        self.graphs = []
        for i in range(n):
            size = int(torch.randint(4, 12, (1,), generator=g))
            kind = torch.randint(0, ATOMS, (size,), generator=g)
            src = torch.arange(1, size)
            dst = (torch.rand(size - 1, generator=g) * src).long()
            if i == 142:
                src, dst = src[:-1], dst[:-1]
            edges = torch.cat([torch.stack([src, dst]), torch.stack([dst, src])], 1)
            energy = kind.float().mean() - 0.5 * (kind[src] == kind[dst]).float().sum() / size
            self.graphs.append({"kind": kind, "edges": edges, "energy": energy})

    def __len__(self):
        return len(self.graphs)

    def __getitem__(self, i):
        return self.graphs[i]


def collate(graphs):
    offset, kinds, edges, batch = 0, [], [], []
    for k, g in enumerate(graphs):
        kinds.append(g["kind"])
        edges.append(g["edges"] + offset)
        batch.append(torch.full((len(g["kind"]),), k))
        offset += len(g["kind"])
    energy = torch.stack([g["energy"] for g in graphs])
    return torch.cat(kinds), torch.cat(edges, 1), torch.cat(batch), energy


class GraphConv(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.own, self.neighbour = nn.Linear(cin, cout), nn.Linear(cin, cout, bias=False)

    def forward(self, h, edges):
        src, dst = edges
        degree = torch.zeros(len(h)).index_add(0, dst, torch.ones(len(dst)))
        total = torch.zeros_like(h).index_add(0, dst, h[src])
        mean = total / degree[:, None]
        return torch.relu(self.own(h) + self.neighbour(mean))


class EnergyNet(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Embedding(ATOMS, dim)
        self.convs = nn.ModuleList([GraphConv(dim, dim) for _ in range(2)])
        self.readout = nn.Linear(dim, 1)

    def forward(self, kind, edges, batch, graphs):
        h = self.embed(kind)
        for conv in self.convs:
            h = conv(h, edges)
        pooled = torch.zeros(graphs, h.size(1)).index_add(0, batch, h)
        return self.readout(pooled / 8.0).squeeze(1)


torch.manual_seed(35)
net = EnergyNet()
opt = torch.optim.Adam(net.parameters(), lr=3e-3)
loader = DataLoader(Molecules(), batch_size=25, shuffle=True, collate_fn=collate)
for epoch in range(4):
    total = 0.0
    for kind, edges, batch, energy in loader:
        loss = nn.functional.mse_loss(net(kind, edges, batch, len(energy)), energy)
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item() / len(loader)
    print(f"epoch {epoch} mse {total:.4f}")
