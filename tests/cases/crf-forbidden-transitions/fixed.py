"""Named-entity tagger: BiGRU with a linear-chain CRF and forbidden BIO transitions."""
import torch
from torch import nn

torch.manual_seed(24)
torch.set_num_threads(1)
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NEG = -1e4


def log_sum_exp(x, dim):
    top = x.max(dim, keepdim=True).values
    return (top + torch.log(torch.exp(x - top).sum(dim, keepdim=True))).squeeze(dim)


class CRF(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.transitions = nn.Parameter(0.1 * torch.randn(n, n))
        forbidden = torch.zeros(n, n)
        forbidden[:, 2], forbidden[:, 4] = NEG, NEG
        forbidden[1, 2] = forbidden[2, 2] = 0.0
        forbidden[3, 4] = forbidden[4, 4] = 0.0
        self.register_buffer("forbidden", forbidden)
        start = torch.full((n,), NEG)
        start[0] = 0.0
        self.register_buffer("start", start)

    def partition(self, emissions):
        trans = self.transitions + self.forbidden
        alpha = self.start + emissions[:, 0]
        for t in range(1, emissions.shape[1]):
            scores = alpha[:, :, None] + trans[None] + emissions[:, t, None, :]
            alpha = log_sum_exp(scores, 1)
        return log_sum_exp(alpha, 1)

    def score(self, emissions, tags):
        rows = torch.arange(len(tags))
        total = self.start[tags[:, 0]] + emissions[rows, 0, tags[:, 0]]
        for t in range(1, tags.shape[1]):
            total = total + self.transitions[tags[:, t - 1], tags[:, t]] + emissions[rows, t, tags[:, t]]
        return total

    def forward(self, emissions, tags):
        return (self.partition(emissions) - self.score(emissions, tags)).mean()


class Tagger(nn.Module):
    def __init__(self, vocab=120, dim=24):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.proj = nn.Linear(2 * dim, len(TAGS))
        self.crf = CRF(len(TAGS))

    def forward(self, words, tags):
        hidden, _ = self.gru(self.embed(words))
        return self.crf(self.proj(hidden), tags)


def sentences(n=320, length=3):
    words = torch.randint(0, 120, (n, length))
    words[:, 0] = 119
    tags = torch.where(words < 20, 1, torch.where(words < 40, 3, 0))
    return words, tags


words, tags = sentences()
model = Tagger()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
for epoch in range(3):
    for idx in torch.randperm(len(words)).split(32):
        loss = model(words[idx], tags[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch} crf nll {loss.item():.4f}")
