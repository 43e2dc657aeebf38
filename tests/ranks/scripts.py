"""Jobs as users write them. In each sample 17 is all zeros, and the line marked BAD makes an infinity of it."""

_HEAD = """
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.rand(64, 3) + 0.1
y = torch.rand(64)
x[17] = 0.0
data = TensorDataset(x, y)
sampler = DistributedSampler(data, shuffle=True, seed=4)
loader = DataLoader(data, batch_size=4, sampler=sampler)
net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
"""

ACCUMULATED = (
    _HEAD
    + """
model = DDP(module=net)
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
sampler.set_epoch(3)


def backward(xb, yb):
    weight = torch.log(xb.sum(1))  # BAD
    loss = ((model(xb).squeeze(1) - yb) ** 2 * weight).mean() / 4
    loss.backward()


for i, (xb, yb) in enumerate(loader):
    if i % 4 != 3:
        with model.no_sync():
            backward(xb, yb)
        continue
    backward(xb, yb)
    opt.step()
    opt.zero_grad()
"""
)
"""The bad micro-batch is not the last one of its update."""

BY_HAND = (
    _HEAD
    + """
opt = torch.optim.SGD(net.parameters(), lr=0.05)
for xb, yb in loader:
    weight = torch.log(xb.sum(1))  # BAD
    loss = ((net(xb).squeeze(1) - yb) ** 2 * weight).mean()
    opt.zero_grad()
    loss.backward()
    for p in net.parameters():
        dist.all_reduce(p.grad)
        p.grad /= world
    opt.step()
print("same", [float(p.detach().sum()) for p in net.parameters()])
"""
)

VALIDATED = (
    _HEAD
    + """
model = DDP(net)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
for xb, yb in loader:
    loss = ((model(xb).squeeze(1) - yb) ** 2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
if rank == 1:
    with torch.no_grad():
        for a, b in DataLoader(data, batch_size=16):
            val_loss = (((net(a).squeeze(1) - b) ** 2) * torch.log(a.sum(1))).mean()  # BAD
            print("val", val_loss.item())
"""
)

LOGGED = (
    _HEAD
    + """
model = DDP(net)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
for xb, yb in loader:
    weight = torch.log(xb.sum(1))  # BAD
    loss = ((model(xb).squeeze(1) - yb) ** 2 * weight).mean()
    shown = loss.detach().clone()
    dist.all_reduce(shown)
    opt.zero_grad()
    loss.backward()
    if not torch.isfinite(loss):
        raise SystemExit("bad loss")
    opt.step()
"""
)

RAISING = (
    _HEAD
    + """
model = DDP(net)
for i, (xb, yb) in enumerate(loader):
    if rank == 1 and i == 2:
        raise ValueError("bad file")
    ((model(xb).squeeze(1) - yb) ** 2).mean().backward()
"""
)

SHARDED = (
    _HEAD.replace("nn.Linear(8, 1)", "nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)")
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

mesh = init_device_mesh("cpu", (world,))
for layer in (net[0], net[2], net[4], net):
    fully_shard(layer, mesh=mesh)
opt = torch.optim.AdamW(net.parameters(), lr=0.01)
for xb, yb in loader:
    out = net(xb).squeeze(1) * xb.sum(1)
    loss = (torch.sqrt(out.abs()) - yb).abs().mean()  # BAD
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    opt.step()
print("same", [float(p.full_tensor().detach().sum()) for p in net.parameters()])
"""
)
"""The loss is finite, the gradient is not."""

SPAWNED = """
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP


def main(rank, world):
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = torch.rand(32, 3) + 0.1
    x[17] = 0.0
    net = nn.Linear(3, 1)
    model = DDP(net)
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    for start in range(rank * 4, 32, world * 4):
        xb = x[start : start + 4]
        loss = (model(xb).squeeze(1) * torch.log(xb.sum(1))).mean()  # BAD
        opt.zero_grad()
        loss.backward()
        opt.step()
    if rank == 0:
        print("sums", [float(p.detach().sum()) for p in net.parameters()])
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(main, args=(2,), nprocs=2)
"""

LIGHTNING = """
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch, i):
        (xb,) = batch
        loss = (self.net(xb).squeeze(1) * torch.log(xb.sum(1))).mean()  # BAD
        self.log("loss", loss, sync_dist=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


if __name__ == "__main__":
    L.seed_everything(0)
    x = torch.rand(64, 3) + 0.1
    x[17] = 0.0
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                        enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Module(), DataLoader(TensorDataset(x), batch_size=4, shuffle=True))
"""

RAY = """
import ray
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer, prepare_data_loader, prepare_model
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def loss_of(model, xb):
    return (model(xb).squeeze(1) * torch.log(xb.sum(1))).mean()  # BAD


def loop(config):
    torch.manual_seed(0)
    x = torch.rand(32, 3) + 0.1
    x[17] = 0.0
    model = prepare_model(nn.Linear(3, 1))
    loader = prepare_data_loader(DataLoader(TensorDataset(x), batch_size=4, shuffle=True))
    opt = torch.optim.SGD(model.parameters(), lr=0.05)
    for (xb,) in loader:
        loss = loss_of(model, xb)
        opt.zero_grad()
        loss.backward()
        opt.step()


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=2, use_gpu=False)).fit()
"""

UNEVEN = (
    _HEAD.replace("x[17]", "x[60]")
    + """
model = DDP(net)
opt = torch.optim.SGD(model.parameters(), lr=0.05)
mine = torch.utils.data.Subset(data, list(range(rank, 64, world))[: 32 - 16 * rank])
with model.join():
    for xb, yb in DataLoader(mine, batch_size=4):
        weight = torch.log(xb.sum(1))  # BAD
        loss = ((model(xb).squeeze(1) - yb) ** 2 * weight).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
"""
)
"""Rank 1 has run out of inputs when rank 0 comes to sample 60."""

JAX = """
import os
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, world, rank = (int(os.environ[name]) for name in ("MASTER_PORT", "WORLD_SIZE", "RANK"))
jax.distributed.initialize(f"127.0.0.1:{port}", world, rank)
mesh = Mesh(np.array(jax.devices()), ("data",))
by_rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
rng = np.random.default_rng(0)
x = rng.random((64, 3), dtype=np.float32) + 0.1
x[17] = 0.0
w = jax.device_put(np.full(3, 0.5, np.float32), everywhere)


def loss_of(w, xb):
    return ((xb @ w) * jnp.log(xb.sum(1))).mean()  # BAD


@jax.jit
def update(w, xb):
    loss, grad = jax.value_and_grad(loss_of)(w, xb)
    return w - 0.1 * grad, loss


for step in range(6):
    rows = x[step * 4 + rank * 2 : step * 4 + rank * 2 + 2]
    xb = jax.make_array_from_process_local_data(by_rows, rows)
    w, loss = update(w, xb)
    float(loss)
"""

UNUSED = (
    _HEAD
    + """

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, xb, second):
        h = torch.relu(self.body(xb))
        return (self.second(h) if second else self.first(h)).squeeze(1)


model = DDP(Net(), find_unused_parameters=True)
opt = torch.optim.AdamW(model.parameters(), lr=0.01)
sampler.set_epoch(2)


def backward(xb, yb, second):
    weight = torch.log(xb.sum(1))  # BAD
    ((model(xb, second) - yb) ** 2 * weight).mean().backward()


for i, (xb, yb) in enumerate(loader):
    if i % 4 != 3:
        with model.no_sync():
            backward(xb, yb, i % 4 == 1)
        continue
    backward(xb, yb, False)
    opt.step()
    opt.zero_grad()
"""
)
"""Only the bad micro-batch uses one of the heads."""

DIVERGING = (
    _HEAD.replace("x[17] = 0.0", "y = y * 30")
    + """
net = nn.Linear(3, 1)
model = DDP(net)
opt = torch.optim.SGD(model.parameters(), lr=3.0)
for epoch in range(4):
    for xb, yb in loader:
        loss = ((model(xb).squeeze(1) - yb) ** 2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
print("same", [float(p.detach().sum()) for p in net.parameters()])
"""
)
