"""`whynan.lightning.Watch`: a callback for PyTorch Lightning's Trainer."""

import sys
from typing import Any

from whynan.api.trainers import TrainerWatch

if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    from pytorch_lightning.callbacks import Callback
else:
    from lightning.pytorch.callbacks import Callback


class Watch(TrainerWatch, Callback):
    """Watch a Trainer's `fit`; options are those of `TrainerWatch`.

    trainer = Trainer(callbacks=[whynan.lightning.Watch()])
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Know the module's file as the user's code."""
        self._know_class_of(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End with `fit`: everything is as it was, the report stays."""
        if stage == "fit":
            self.close()
