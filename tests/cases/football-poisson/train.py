"""Expected goals per match: team embeddings and a Poisson likelihood."""
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
TEAMS = 18


class Fixtures(Dataset):
    def __init__(self, n=900, seed=90):
        g = torch.Generator().manual_seed(seed)
        attack, defence = 0.4 * torch.randn(TEAMS, generator=g), 0.4 * torch.randn(TEAMS, generator=g)
        self.home = torch.randint(0, TEAMS, (n,), generator=g)
        self.away = (self.home + torch.randint(1, TEAMS, (n,), generator=g)) % TEAMS
        rate = torch.exp(0.2 + attack[self.home] - defence[self.away])
        self.goals = torch.poisson(rate, generator=g)

    def __len__(self):
        return len(self.goals)

    def __getitem__(self, i):
        return {"home": self.home[i], "away": self.away[i], "goals": self.goals[i]}


class GoalModel(nn.Module):
    def __init__(self, dim=8):
        super().__init__()
        self.attack, self.defence = nn.Embedding(TEAMS, dim), nn.Embedding(TEAMS, dim)
        self.mlp = nn.Sequential(nn.Linear(2 * dim, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, home, away):
        return self.mlp(torch.cat([self.attack(home), self.defence(away)], -1)).squeeze(-1)


def train_one_epoch(model, loader, criterion, optimizer):
    model.train()
    total = 0.0
    for batch in loader:
        rate = model(batch["home"], batch["away"])
        loss = criterion(rate, batch["goals"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def main():
    torch.manual_seed(26)
    model = GoalModel()
    criterion = nn.PoissonNLLLoss(log_input=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = DataLoader(Fixtures(), batch_size=45, shuffle=True)
    for epoch in range(5):
        print(f"epoch {epoch} nll {train_one_epoch(model, loader, criterion, optimizer):.4f}")


main()
