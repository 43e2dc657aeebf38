"""Distilling a large intent classifier; the teacher's outputs are stored as top-k probabilities."""
import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
INTENTS, DIM, TOPK = 40, 48, 8


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(DIM, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, INTENTS))

    def forward(self, x):
        return self.layers(x)


def utterances(n, seed=2):
    g = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(INTENTS, DIM, generator=g)
    intent = torch.randint(0, INTENTS, (n,), generator=g)
    x = prototypes[intent] + 0.8 * torch.randn(n, DIM, generator=g)
    return x, intent, prototypes


def teacher_cache(x, prototypes):
    """Full distributions are too big to keep on disk: store the k best and their probabilities."""
    probs = (x @ prototypes.T / 4).softmax(-1)
    value, index = probs.topk(TOPK, dim=-1)
    return value / value.sum(-1, keepdim=True), index


def expand(value, index):
    return torch.zeros(len(value), INTENTS).scatter(1, index, value)


def kl_divergence(p, log_q):
    return (p * (torch.log(p) - log_q)).sum(-1).mean()


def train_student(steps=120, batch=32, alpha=0.7, temperature=1.0):
    torch.manual_seed(17)
    x, intent, prototypes = utterances(1200)
    value, index = teacher_cache(x, prototypes)
    student = Student()
    opt = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(steps):
        pick = torch.randint(0, len(x), (batch,))
        logits = student(x[pick])
        soft = expand(value[pick], index[pick])
        ce = F.cross_entropy(logits, intent[pick])
        kd = kl_divergence(soft, F.log_softmax(logits / temperature, -1))
        loss = (1 - alpha) * ce + alpha * kd
        if torch.isnan(loss):
            raise RuntimeError(f"step {step}: loss is nan (ce {ce.item():.4f}, kd {kd.item():.4f})")
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 20 == 0:
            print(f"step {step} ce {ce.item():.4f} kd {kd.item():.4f}")


train_student()
