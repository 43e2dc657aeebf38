"""CTC over spoken digits, infinite losses set to zero."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

BLANK = 0


class Digits(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        n = int(torch.randint(2, 6, (1,), generator=generator))
        labels = torch.randint(1, 11, (n,), generator=generator)
        frames = torch.randn(6 * n, 13, generator=generator) + labels.repeat_interleave(6)[:, None] * 0.2
        return (frames - frames.mean(0)) / (frames.std(0) + 1e-5), labels


def collate(batch):
    frames, labels = zip(*batch)
    n_frames = torch.tensor([len(item) for item in frames])
    n_labels = torch.tensor([len(item) for item in labels])
    return pad_sequence(frames, batch_first=True), torch.cat(labels), n_frames, n_labels


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(13, 32, 3, padding=1)
        self.memory = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 11)

    def forward(self, frames):
        h = F.relu(self.first(frames.transpose(1, 2))).transpose(1, 2)
        return F.log_softmax(self.head(self.memory(h)[0]), -1)


def main():
    torch.manual_seed(0)
    model = Recogniser()
    loss_fn = nn.CTCLoss(blank=BLANK, zero_infinity=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(2):
        for frames, labels, n_frames, n_labels in DataLoader(Digits(), batch_size=16, shuffle=True, collate_fn=collate):
            loss = loss_fn(model(frames).transpose(0, 1), labels, n_frames, n_labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        print(epoch, loss.item())


if __name__ == "__main__":
    main()
