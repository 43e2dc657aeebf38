"""`whynan.ultralytics.Watch`: attached to an Ultralytics model that is going to be trained."""

import functools
from types import FunctionType
from typing import Any

from ultralytics.engine.trainer import BaseTrainer

from whynan.adapters.common.patches import Patches
from whynan.api.trainers import TrainerWatch
from whynan.api.watch import rewritten_code
from whynan.launch.host import Unwind


class Watch(TrainerWatch):
    """Watch a model's `train`; options are those of `TrainerWatch`.

    The trainer has no function for one step: the body of its loop over batches is run again, like one's own.

        model = YOLO("yolov8n.yaml")
        whynan.ultralytics.Watch().attach(model)
        model.train(data="data.yaml")
    """

    def attach(self, model: Any) -> None:
        """Watch the trainings that begin from now on; the watch ends with the first one's end."""
        self._patches = Patches()
        self._patches.replace(BaseTrainer, "_do_train", self._training)
        model.add_callback("on_train_start", lambda trainer: self._know_class_of(trainer))
        model.add_callback("on_train_end", lambda trainer: self.close())

    def close(self) -> None:
        """Stop watching; the report stays."""
        self._patches.undo()
        super().close()

    def _training(self, original: Any) -> Any:
        @functools.wraps(original)
        def _do_train(trainer: Any) -> None:
            try:
                training(trainer)
            except Unwind:
                raise self._stopped() from None

        code = rewritten_code(self._engine, original.__code__)
        training = FunctionType(code, original.__globals__) if code is not None else original
        return _do_train
