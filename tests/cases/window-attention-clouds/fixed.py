import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, random_split

torch.manual_seed(27)
torch.set_num_threads(2)

TILE, PATCH, WIN = 48, 4, 4


class CropTiles(Dataset):
    """Multispectral tiles with the cloud mask of the provider; target is the crop type."""

    def __init__(self, n=120, seed=9):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 4, TILE, TILE, generator=g) * 0.1
        self.y = torch.randint(0, 4, (n,), generator=g)
        self.x[torch.arange(n), self.y] += 0.5
        self.cloud = torch.zeros(n, TILE, TILE, dtype=torch.bool)
        yy, xx = torch.meshgrid(torch.arange(TILE), torch.arange(TILE), indexing="ij")
        for i in range(n):
            cy, cx = (torch.rand(2, generator=g) * TILE).tolist()
            r = 2 + 9 * float(torch.rand(1, generator=g)) ** 4
            self.cloud[i] = (yy - cy) ** 2 + (xx - cx) ** 2 < r * r

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.cloud[i], self.y[i]


def to_windows(t):
    b, h, w, c = t.shape
    t = t.view(b, h // WIN, WIN, w // WIN, WIN, c)
    return t.transpose(2, 3).reshape(b, -1, WIN * WIN, c)


class WindowAttention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, clear):
        b, n, t, c = x.shape
        q, k, v = self.qkv(x).view(b, n, t, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        logits = q @ k.transpose(-1, -2) / (c // self.heads) ** 0.5
        logits = logits.masked_fill(~clear[:, :, None, None, :], -1e4)
        weights = torch.softmax(logits, dim=-1)
        return self.out((weights @ v).transpose(2, 3).reshape(b, n, t, c))


class CropViT(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.patchify = nn.Conv2d(4, dim, PATCH, PATCH)
        self.norm = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim))
        self.head = nn.Linear(dim, 4)

    def forward(self, x, cloud):
        clear = F.max_pool2d(cloud.float()[:, None], PATCH) < 0.5
        clear = to_windows(clear.permute(0, 2, 3, 1)).squeeze(-1)
        tokens = to_windows(self.patchify(x).permute(0, 2, 3, 1))
        tokens = tokens + self.attn(self.norm(tokens), clear)
        tokens = tokens + self.mlp(tokens)
        keep = clear.unsqueeze(-1).float()
        return self.head((tokens * keep).sum(dim=(1, 2)) / keep.sum(dim=(1, 2)))


def run_epoch(model, loader, optimizer=None):
    total, right, n = 0.0, 0, 0
    for x, cloud, y in loader:
        logits = model(x, cloud)
        loss = F.cross_entropy(logits, y)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total, right, n = total + loss.item() * len(y), right + (logits.argmax(1) == y).sum().item(), n + len(y)
    return total / n, right / n


if __name__ == "__main__":
    train_set, val_set = random_split(CropTiles(), [100, 20], generator=torch.Generator().manual_seed(5))
    train_loader = DataLoader(train_set, batch_size=10, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=10)
    model = CropViT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(4):
        loss, acc = run_epoch(model, train_loader, optimizer)
        with torch.no_grad():
            val_loss, val_acc = run_epoch(model, val_loader)
        print(f"epoch {epoch} train {loss:.4f}/{acc:.2f} val {val_loss:.4f}/{val_acc:.2f}")
