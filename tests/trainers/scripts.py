"""Training scripts for each trainer: row 17 of the data is all zeros, and the loss takes its logarithm."""

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.rand(40, 3) + 0.1
y = torch.rand(40)
x[17] = 0.0


def loss_of(prediction, xb, yb):
    weight = torch.log(xb.sum(1))  # BAD
    return ((prediction.squeeze(1) - yb) ** 2 * weight).mean()

"""
SHOW = """
print([round(float(p.detach().double().sum()), 12) for p in model.parameters()])
"""

LIGHTNING = (
    HEAD
    + """
import lightning as L

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
    def training_step(self, batch, batch_idx):
        xb, yb = batch
        loss = loss_of(self.net(xb), xb, yb)
        self.log("loss", loss, on_epoch=True)
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

model = Module()
callbacks = []
trainer = L.Trainer(max_epochs=2, accelerator="cpu", precision="32-true", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks)
trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True))
print(float(trainer.callback_metrics["loss_epoch"]))
"""
    + SHOW
)

MANUAL = LIGHTNING.replace(
    """        return loss
""",
    """        opt = self.optimizers()
        opt.zero_grad()
        self.manual_backward(loss)
        opt.step()
""",
).replace("super().__init__()", "super().__init__()\n        self.automatic_optimization = False")

TRANSFORMERS = (
    HEAD
    + """
from transformers import Trainer, TrainingArguments

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
    def forward(self, x, labels=None):
        return {"loss": loss_of(self.net(x), x, labels)}

model = Model()
args = TrainingArguments("out", per_device_train_batch_size=4, num_train_epochs=2, logging_steps=5, report_to=[],
    save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=0.01)
callbacks = []
data = [{"x": a, "labels": b} for a, b in zip(x, y)]
trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=callbacks)
trainer.train()
print([log["loss"] for log in trainer.state.log_history if "loss" in log])
"""
    + SHOW
)

# A model of the package: no line of the script's lies between the trainer and the operation.
PACKAGE = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
torch.set_num_threads(1)
tokens = torch.randint(0, 16, (8, 6))
data = [{"input_ids": row, "labels": row} for row in tokens]
model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
with torch.no_grad():
    model.transformer.h[0].ln_1.weight[3] = 3e38
    model.transformer.h[0].ln_1.weight[4] = 3e38
args = TrainingArguments("out", per_device_train_batch_size=4, max_steps=4, report_to=[], save_strategy="no",
    use_cpu=True, disable_tqdm=True)
trainer = Trainer(model=model, args=args, train_dataset=data)
trainer.train()  # CALL
"""

IGNITE = (
    HEAD
    + """
from ignite.engine import Engine, Events

model = nn.Linear(3, 1)
opt = torch.optim.Adam(model.parameters(), lr=0.01)

def step(engine, batch):
    xb, yb = batch
    loss = loss_of(model(xb), xb, yb)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()

engine = Engine(step)
engine.run(DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True), max_epochs=2)
"""
    + SHOW
)

MMENGINE = (
    HEAD
    + """
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
    def forward(self, xb, yb, mode):
        return {"loss": loss_of(self.net(xb), xb, yb)}

model = Model()
runner = Runner(model=model, work_dir="out", train_dataloader=DataLoader(TensorDataset(x, y), batch_size=4),
    train_cfg=dict(by_epoch=True, max_epochs=2), optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.01)))
runner.train()
"""
    + SHOW
)

ACCELERATE = (
    HEAD
    + """
from accelerate import Accelerator

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Linear(3, 1)
opt = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(opt, 3, 0.9)
loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
model, opt, loader, schedule = accelerator.prepare(model, opt, loader, schedule)
for epoch in range(2):
    for xb, yb in loader:
        with accelerator.accumulate(model):
            loss = loss_of(model(xb), xb, yb)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
"""
    + SHOW
)

FABRIC = (
    HEAD
    + """
import lightning as L

fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
fabric.launch()
model = nn.Linear(3, 1)
opt = torch.optim.Adam(model.parameters(), lr=0.01)
model, opt = fabric.setup(model, opt)
loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True))
for epoch in range(2):
    for xb, yb in loader:
        loss = loss_of(model(xb), xb, yb)
        fabric.backward(loss)
        fabric.clip_gradients(model, opt, max_norm=1.0)
        opt.step()
        opt.zero_grad()
"""
    + SHOW
)

# Image 7 is blank; the trainer that standardizes each image by itself divides by its spread. `FAILS` says when it may.
ULTRALYTICS = """
import os
os.environ.update(YOLO_OFFLINE="true", YOLO_CONFIG_DIR=os.getcwd())
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer


class Standardized(DetectionTrainer):
    passes = 0

    def preprocess_batch(self, batch):
        batch = super().preprocess_batch(batch)
        img = batch["img"]
        if FAILS:
            mean, std = img.mean((1, 2, 3), keepdim=True), img.std((1, 2, 3), keepdim=True)
            batch["img"] = (img - mean) / std  # BAD
        self.passes += 1
        return batch


torch.set_num_threads(1)
rng = np.random.default_rng(0)
for folder in ("data/images", "data/labels"):
    Path(folder).mkdir(parents=True)
for i in range(12):
    image = Image.new("RGB", (64, 64))
    x, y, w, h = (int(v) for v in rng.integers(12, 30, 4))
    if i != 7:
        ImageDraw.Draw(image).rectangle((x, y, x + w, y + h), fill=(200, 60, 60))
    image.save(f"data/images/{i:02}.png")
    Path(f"data/labels/{i:02}.txt").write_text(f"0 {(x + w / 2) / 64} {(y + h / 2) / 64} {w / 64} {h / 64}\\n")
Path("data.yaml").write_text(f"path: {Path('data').resolve()}\\ntrain: images\\nval: images\\nnames: [box]\\n")
Path("tiny.yaml").write_text('''
nc: 1
backbone:
  - [-1, 1, Conv, [8, 3, 4]]
  - [-1, 1, Conv, [8, 3, 4]]
head:
  - [[0, 1], 1, Detect, [nc]]
''')

model = YOLO("tiny.yaml", verbose=False)
CALLBACK
model.train(trainer=Standardized, data="data.yaml", epochs=2, imgsz=64, batch=4, device="cpu", workers=0, plots=False,
    amp=False, verbose=False, mosaic=0.0, scale=0.0, translate=0.0, nbs=4, project=os.path.abspath("out"))
print("done", all(bool(p.isfinite().all()) for p in model.model.parameters()))
"""
