"""Word-count regression; one function runs both the training and the validation epochs."""
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(81)
torch.set_num_threads(1)
text = torch.rand(200, 12)
length = torch.randint(1, 40, (200,)).float()
length[160:164] = 0
model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
loaders = {"train": DataLoader(TensorDataset(text[:150], length[:150]), batch_size=25, shuffle=True),
           "val": DataLoader(TensorDataset(text[150:], length[150:]), batch_size=25)}


def run(phase):
    model.train(phase == "train")
    total = 0.0
    for x, n in loaders[phase]:
        with torch.set_grad_enabled(phase == "train"):
            log_length = torch.log1p(n)
            loss = nn.functional.mse_loss(model(x).squeeze(1), log_length)
        if phase == "train":
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        total += loss.item()
    return total / len(loaders[phase])


for epoch in range(3):
    print(f"epoch {epoch} " + " ".join(f"{phase} {run(phase):.4f}" for phase in loaders))
