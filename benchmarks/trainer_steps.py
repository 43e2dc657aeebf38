"""Training steps inside trainers and jobs, timed: `trainer_steps.py lightning|transformers|ddp|compiled STEPS`.

Prints `step_ms MEDIAN FASTEST` over the last two thirds of the steps; of a job, rank 0's.
"""

import itertools
import statistics
import sys
import time
from typing import Any

import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
WIDTH, BATCH = 512, 256
times: list[float] = []


def layers() -> Any:
    return nn.Sequential(*[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()) for _ in range(6)])


def data(n_steps: int) -> Any:
    x = torch.randn(4 * BATCH, WIDTH).repeat(n_steps // 4 + 1, 1)[: n_steps * BATCH]
    return torch.utils.data.TensorDataset(x, x.mean(1, keepdim=True))


def lightning(n_steps: int) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            times.append(time.perf_counter())
            x, y = batch
            return nn.functional.mse_loss(self.layers(x), y.expand(-1, WIDTH))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data(n_steps), batch_size=BATCH))


def transformers(n_steps: int) -> None:
    from transformers import Trainer, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers()

        def forward(self, x: Any, labels: Any = None) -> Any:
            times.append(time.perf_counter())
            return {"loss": nn.functional.mse_loss(self.layers(x), labels.expand(-1, WIDTH))}

    arguments = TrainingArguments(
        "out",
        per_device_train_batch_size=BATCH,
        max_steps=n_steps,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    samples = [{"x": x, "labels": y} for x, y in data(n_steps)]
    Trainer(model=Model(), args=arguments, train_dataset=samples).train()


def ddp(n_steps: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(layers())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for x, y in torch.utils.data.DataLoader(data(n_steps), batch_size=BATCH):
        times.append(time.perf_counter())
        loss = nn.functional.mse_loss(model(x), y.expand(-1, WIDTH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    dist.barrier()


def compiled(n_steps: int) -> None:
    from torchvision.models import resnet18

    model = torch.compile(resnet18(num_classes=10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images, labels = torch.rand(64, 3, 64, 64), torch.arange(64) % 10
    for step in range(n_steps):
        times.append(time.perf_counter())
        rows = slice(16 * (step % 4), 16 * (step % 4 + 1))
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    {"lightning": lightning, "transformers": transformers, "ddp": ddp, "compiled": compiled}[sys.argv[1]](
        int(sys.argv[2])
    )
    import os

    if os.environ.get("RANK", "0") == "0":
        steps = [1e3 * (b - a) for a, b in itertools.pairwise(times)][len(times) // 3 :]
        print(f"step_ms {statistics.median(steps):.3f} {min(steps):.3f}")
