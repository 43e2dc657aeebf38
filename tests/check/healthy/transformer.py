"""A small language model: causal and padding masks of -inf, tied weights, warm-up, clipped gradients."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

PAD, VOCABULARY, LENGTH = 0, 40, 16


class Sentences(Dataset):
    def __init__(self, n=96):
        generator = torch.Generator().manual_seed(1)
        self.lengths = torch.randint(4, LENGTH, (n,), generator=generator)
        self.tokens = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = self.tokens[index].clone()
        tokens[self.lengths[index] :] = PAD
        return tokens


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, padding):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        causal = torch.triu(torch.ones(n, n, dtype=torch.bool), 1)
        scores = scores.masked_fill(causal, float("-inf"))
        scores = scores.masked_fill(padding[:, None, None, :] & ~torch.eye(n, dtype=torch.bool), float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, 4)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * dim, dim))

    def forward(self, x, padding):
        x = x + self.attention(self.first(x), padding)
        return x + self.feed(self.second(x))


class Model(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, dim), nn.Embedding(LENGTH, dim)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.ModuleList([Block(dim) for _ in range(2)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x, tokens == PAD)
        return self.norm(x) @ self.tokens.weight.T


def main():
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1.0))
    for epoch in range(2):
        for tokens in DataLoader(Sentences(), batch_size=16, shuffle=True):
            logits = model(tokens[:, :-1])
            # A sentence has four words at least: there is always a target.
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=PAD, reduction="sum")
            loss = loss / (tokens[:, 1:] != PAD).sum().clamp(min=1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
