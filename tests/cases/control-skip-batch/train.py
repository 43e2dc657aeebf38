"""Log-ratio regression on order books; a batch whose loss is not finite is left out."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(2)
torch.manual_seed(14)


def order_books(n=640):
    bid = torch.rand(n, 4) * 100
    ask = bid * (1 + 0.1 * torch.randn(n, 4).abs())
    volume = torch.randint(1, 50, (n,)).float()
    traded = volume * (0.3 + 0.4 * torch.rand(n))
    traded[[101, 430]] = 0.0
    return TensorDataset(torch.cat([bid, ask], 1) / 100, volume, traded)


model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
loader = DataLoader(order_books(), batch_size=32, shuffle=True)
for epoch in range(5):
    kept, skipped = 0.0, 0
    for book, volume, traded in loader:
        target = torch.log(traded / volume)
        loss = (model(book).squeeze(1) - target).pow(2).mean()
        if not torch.isfinite(loss):
            optimizer.zero_grad()
            skipped += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept += loss.item()
    print(f"epoch {epoch} loss {kept / (len(loader) - skipped):.4f} skipped {skipped}")
