"""Early stopping on validation loss; per-class accuracy is NaN for a class the split does not hold."""
import copy
import numpy as np
import torch
from torch import nn

torch.manual_seed(57)
torch.set_num_threads(1)
x = torch.randn(600, 10)
y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 1.2).long()
train, val = torch.arange(500), torch.arange(500, 600)
val = val[y[val] != 3]
model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
best_loss, best_state, patience = np.inf, None, 3
for epoch in range(10):
    model.train()
    for idx in train[torch.randperm(len(train))].split(50):
        loss = nn.functional.cross_entropy(model(x[idx]), y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(x[val])
        val_loss = nn.functional.cross_entropy(logits, y[val]).item()
        hit = (logits.argmax(1) == y[val]).float()
        accuracy = torch.stack([hit[y[val] == c].mean() for c in range(4)])
    print(f"epoch {epoch} val {val_loss:.4f} accuracy per class {accuracy.numpy().round(2)} mean {accuracy.nanmean():.3f}")
    if val_loss < best_loss - 1e-3:
        best_loss, best_state, bad = val_loss, copy.deepcopy(model.state_dict()), 0
    else:
        bad += 1
        if bad >= patience:
            break
model.load_state_dict(best_state)
