"""Keyword spotting on log-power spectrograms with a small GRU."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.set_num_threads(2)
RATE, WIN, HOP, WORDS = 4000, 256, 128, 5


def record_clips(n=320, seed=8):
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 2) / RATE
    word = rng.integers(0, WORDS, n)
    pitch = 200 + 150 * word + rng.normal(0, 10, n)
    wave = np.sin(2 * np.pi * pitch[:, None] * t) * np.exp(-4 * t) + 0.02 * rng.normal(size=(n, t.size))
    pcm = np.clip(wave * 8000, -32768, 32767).astype(np.int16)
    pcm[214] = 0
    return pcm, word


class SpeechCommands(Dataset):
    def __init__(self, pcm, word):
        self.pcm, self.word = pcm, word
        self.window = np.hanning(WIN)

    def __len__(self):
        return len(self.pcm)

    def spectrogram(self, wave):
        frames = np.lib.stride_tricks.sliding_window_view(wave, WIN)[::HOP] * self.window
        power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
        return 10.0 * np.log10(np.maximum(power, 1e-10))

    def __getitem__(self, i):
        wave = self.pcm[i].astype(np.float32) / 32768.0
        spec = self.spectrogram(wave)[:, :64]
        return torch.tensor(spec / 40.0 + 1.0, dtype=torch.float32), int(self.word[i])


class Spotter(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(64, 48, batch_first=True)
        self.fc = nn.Linear(48, WORDS)

    def forward(self, spec):
        _, last = self.rnn(spec)
        return self.fc(last[-1])


def main():
    torch.manual_seed(4)
    loader = DataLoader(SpeechCommands(*record_clips()), batch_size=16, shuffle=True, num_workers=2)
    net = Spotter()
    optim = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(3):
        total, correct, seen = 0.0, 0, 0
        for spec, word in loader:
            scores = net(spec)
            loss = F.cross_entropy(scores, word)
            optim.zero_grad()
            loss.backward()
            optim.step()
            total += loss.item() * len(word)
            correct += (scores.argmax(1) == word).sum().item()
            seen += len(word)
        print(f"epoch {epoch} loss {total / seen:.4f} acc {correct / seen:.3f}")


if __name__ == "__main__":
    main()
