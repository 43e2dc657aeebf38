"""`whynan.transformers.Watch`: a callback for Transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback

from whynan.api.trainers import TrainerWatch


class Watch(TrainerWatch, TrainerCallback):
    """Watch a Trainer's `train`; options are those of `TrainerWatch`. Make it before `train` is called.

    Transformers leaves a NaN out of the loss that it logs; here it is seen in the step in which it happens.

        trainer = Trainer(model=model, args=args, train_dataset=data, callbacks=[whynan.transformers.Watch()])
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Know the model's file as the user's code."""
        self._know_class_of(kwargs.get("model"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End with `train`: everything is as it was, the report stays."""
        self.close()
