"""Topic shares of documents; a monitoring thread scores a held-out set while training goes on."""
import threading

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
torch.manual_seed(38)
WORDS, TOPICS, BATCH = 3000, 12, 64


class ShareNormaliser(nn.Module):
    """Damped counts over their row total; the total lives in a preallocated buffer to save allocations."""

    def __init__(self, rows):
        super().__init__()
        self.register_buffer("total", torch.ones(rows, 1), persistent=False)
        self.register_buffer("idf", torch.linspace(0.5, 1.5, WORDS))

    def forward(self, counts):
        damped = torch.log1p(counts)
        weighted = damped * self.idf
        return weighted / damped.sum(1, keepdim=True)


class TopicShares(nn.Module):
    def __init__(self):
        super().__init__()
        self.shares = ShareNormaliser(BATCH)
        self.fc1, self.fc2 = nn.Linear(WORDS, 64), nn.Linear(64, TOPICS)

    def forward(self, counts):
        return self.fc2(torch.tanh(self.fc1(30.0 * self.shares(counts))))


def documents(n):
    topic = torch.randint(0, TOPICS, (n,))
    rate = torch.full((n, WORDS), 0.3)
    for k in range(TOPICS):
        rate[topic == k, 200 * k:200 * k + 200] += 1.5
    return torch.poisson(rate), topic


class Monitor(threading.Thread):
    def __init__(self, model, counts, topic):
        super().__init__(daemon=True)
        self.model, self.counts, self.topic = model, counts, topic
        self.accuracy, self.running = 0.0, True

    @torch.no_grad()
    def run(self):
        while self.running:
            predicted = self.model(self.counts).argmax(1)
            self.accuracy = (predicted == self.topic).float().mean().item()


train_x, train_y = documents(1280)
model = TopicShares()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
monitor = Monitor(model, *documents(BATCH))
monitor.start()
for epoch in range(10):
    for idx in torch.randperm(len(train_x)).split(BATCH):
        loss = F.cross_entropy(model(train_x[idx]), train_y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if epoch % 2 == 1:
        print(f"epoch {epoch} loss {loss.item():.4f} held-out accuracy {monitor.accuracy:.3f}")
monitor.running = False
monitor.join()
