"""Skip-gram with negative sampling on a synthetic corpus."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
torch.manual_seed(15)
VOCAB, DIM, WINDOW, NEGATIVES = 800, 24, 2, 5


def corpus(tokens=6000):
    topic = torch.randint(0, 20, (tokens // 20,)).repeat_interleave(20)
    word = (torch.rand(tokens) ** 2 * 40).long()
    return topic * 40 + word


def skip_grams(text):
    pairs = []
    for shift in range(1, WINDOW + 1):
        pairs.append(torch.stack([text[:-shift], text[shift:]], 1))
        pairs.append(torch.stack([text[shift:], text[:-shift]], 1))
    return torch.cat(pairs)


class SkipGram(nn.Module):
    def __init__(self):
        super().__init__()
        self.centre = nn.Embedding(VOCAB, DIM)
        self.context = nn.Embedding(VOCAB, DIM)
        nn.init.uniform_(self.centre.weight, -0.5 / DIM, 0.5 / DIM)

    def forward(self, centre, context, negative):
        c = self.centre(centre)
        pos = (c * self.context(context)).sum(-1)
        neg = torch.bmm(self.context(negative), c[:, :, None]).squeeze(-1)
        return -(F.logsigmoid(pos) + F.logsigmoid(-neg).sum(1)).mean()


pairs = skip_grams(corpus())
model = SkipGram()
optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1, eps=1e-10)
for epoch in range(2):
    perm = torch.randperm(len(pairs))
    total, batches = 0.0, 0
    for a in range(0, len(perm), 512):
        chosen = pairs[perm[a:a + 512]]
        negative = torch.randint(0, VOCAB, (len(chosen), NEGATIVES))
        loss = model(chosen[:, 0], chosen[:, 1], negative)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, batches = total + loss.item(), batches + 1
    print(f"epoch {epoch} loss {total / batches:.4f}")
