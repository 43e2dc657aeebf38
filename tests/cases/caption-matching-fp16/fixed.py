"""Image-text matching with a contrastive loss under float16 autocast."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.set_num_threads(2)
torch.manual_seed(20)
CONCEPTS, WORDS, EMBED = 30, 200, 1024


class ImageTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(96, 256), nn.GELU(), nn.Linear(256, EMBED))

    def forward(self, x):
        return self.layers(x)


class TextTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, 128, mode="mean")
        self.proj = nn.Linear(128, EMBED)
        self.ln = nn.LayerNorm(EMBED)

    def forward(self, ids):
        return self.ln(self.proj(self.bag(ids)))


class DualEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = ImageTower(), TextTower()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(100.0)))

    def forward(self, pixels, ids):
        img, txt = F.normalize(self.image(pixels), dim=-1), F.normalize(self.text(ids), dim=-1)
        return self.logit_scale.exp() * (img @ txt.t())


prototypes = 128 + 60 * torch.randn(CONCEPTS, 96)


def pairs(n):
    concept = torch.randint(0, CONCEPTS, (n,))
    pixels = prototypes[concept] + 15 * torch.randn(n, 96)
    ids = concept[:, None] * 6 + torch.randint(0, 6, (n, 8))
    return pixels, ids


model = DualEncoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(60):
    pixels, ids = pairs(24)
    with torch.autocast("cpu", dtype=torch.float16):
        logits = model(pixels, ids)
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits.float(), target) + F.cross_entropy(logits.float().t(), target)) / 2
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step} contrastive {loss.item():.4f} scale {model.logit_scale.exp().item():.1f}")
