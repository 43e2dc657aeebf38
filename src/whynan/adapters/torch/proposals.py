"""The boxes that a module proposes: those of torchvision's RPN, and of modules named to us.

They are read in the first two steps of a run whose model has such a module, and in the replay of a step that failed;
in between nothing is hooked.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from whynan.adapters.torch import png
from whynan.adapters.torch.pictures import target_boxes, what_is_wrong
from whynan.launch.host import tell
from whynan.records import Box, Picture

FIRST_STEPS = 2
_MOST_BOXES = 40
_RPN = "RegionProposalNetwork"
_CLAMP = math.log(1000.0 / 16)
"""torchvision's box coder takes no larger dw or dh (`BoxCoder.bbox_xform_clip`)."""


@dataclass(frozen=True)
class Proposed:
    """What one call of a module put out for one image of the batch."""

    name: str
    boxes: Any
    scores: Any
    image: Any
    """[C, H, W], or None where the module was given no image."""
    size: tuple[int, int]
    targets: list[tuple[str, Any]]
    deltas: tuple[str, ...]
    n_images: int


class ProposalHooks:
    """While installed, keeps the last call's proposals of each proposing module under `latest`.

    By PyTorch's hook for all modules and none on the user's own: those would be copied and saved with the model.
    """

    def __init__(self, roots: dict[str, Any], names: tuple[str, ...], position: int = 0) -> None:
        self.position = position
        self.latest: dict[str, Proposed] = {}
        self._names = {id(module): name for name, module in proposing(roots, names)}
        self._heads: dict[int, int] = {}
        for _, module in proposing(roots, names):
            head = getattr(module, "head", None)
            if type(module).__name__ == _RPN and isinstance(head, torch.nn.Module):
                self._heads[id(head)] = id(module)
        self._deltas: dict[int, tuple[str, ...]] = {}
        self._handle: Any = None

    def __bool__(self) -> bool:
        return bool(self._names)

    def install(self) -> None:
        if self:
            self._handle = register_module_forward_hook(self._look, with_kwargs=True)

    def remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _look(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        key = id(module)
        if key not in self._names and key not in self._heads:
            return
        try:
            with torch.no_grad():
                if key in self._heads:
                    self._deltas[self._heads[key]] = tuple(_delta_facts(output[1]))
                    return
                found = self._read(self._names[key], module, (*args, *kwargs.values()), output)
        except Exception as error:
            tell("reading proposed boxes failed", error)
            return
        if found is not None:
            self.latest[found.name] = found

    def _read(self, name: str, module: Any, inputs: tuple[Any, ...], output: Any) -> Proposed | None:
        per_image = _tables(output)
        if not per_image:
            return None
        at = min(self.position, len(per_image) - 1)
        batch, sizes = _images(inputs)
        image = batch[at].detach() if batch is not None and len(batch) > at else None
        boxes = per_image[at].detach().to("cpu", torch.float64)
        size = sizes[at] if sizes is not None and len(sizes) > at else _extent(boxes, image)
        if image is not None:
            image = image[:, : size[0], : size[1]].clone()
        targets = next((v[at] for v in inputs if isinstance(v, list) and len(v) > at and isinstance(v[at], dict)), None)
        named = [(str(k), v.detach()) for k, v in (targets or {}).items() if isinstance(v, torch.Tensor)]
        return Proposed(name, boxes, None, image, size, named, self._deltas.get(id(module), ()), len(per_image))


class FirstProposals:
    """The proposals of the first steps, from the moment a proposing module is met; over after `FIRST_STEPS` steps."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.seen: list[tuple[int, Proposed]] = []
        self.is_over = False
        self._hooks: ProposalHooks | None = None

    def meet(self, name: str, module: Any) -> None:
        """A module of the user's was met: look at what it proposes, if it does."""
        if self.is_over or self._hooks is not None:
            return
        hooks = ProposalHooks({name: module}, self.names)
        if hooks:
            hooks.install()
            self._hooks = hooks

    def end_step(self, step: int) -> None:
        """A step has been made; after the last of the first ones nothing is hooked any more."""
        if self._hooks is not None:
            self.seen += [(step, proposed) for proposed in self._hooks.latest.values()]
            self._hooks.latest = {}
        if step + 1 >= FIRST_STEPS:
            self.stop()

    def stop(self) -> None:
        self.is_over = True
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None


def proposing(roots: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, module) of those that propose boxes: RPNs, and those named by path or class."""
    for root in roots.values():
        for path, module in root.named_modules():
            if type(module).__name__ == _RPN or path in names or type(module).__name__ in names:
                yield path or type(module).__name__, module


def _tables(output: Any) -> list[Any]:
    """Return the tables of boxes [n, 4], one for each image, in what a module has put out."""
    if isinstance(output, torch.Tensor):
        if output.dim() == 3 and output.shape[-1] == 4:
            return list(output)
        return [output] if output.dim() == 2 and output.shape[-1] == 4 else []
    if isinstance(output, dict):
        output = [v for k, v in output.items() if "box" in str(k).lower()] or list(output.values())
    if isinstance(output, (list, tuple)):
        if output and all(isinstance(v, torch.Tensor) and v.dim() == 2 and v.shape[-1] == 4 for v in output):
            return list(output)
        for part in output:
            found = _tables(part)
            if found:
                return found
    return []


def _images(inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return the batch of images among a module's inputs, and the size of each as (height, width)."""
    for value in inputs:
        tensors, sizes = getattr(value, "tensors", None), getattr(value, "image_sizes", None)
        if isinstance(tensors, torch.Tensor) and tensors.dim() == 4 and sizes is not None:
            return tensors, [(int(h), int(w)) for h, w in sizes]
        if isinstance(value, torch.Tensor) and value.dim() == 4 and value.shape[1] in (1, 3, 4):
            return value, [(int(value.shape[2]), int(value.shape[3]))] * len(value)
    return None, None


def _extent(boxes: Any, image: Any) -> tuple[int, int]:
    if image is not None:
        return int(image.shape[-2]), int(image.shape[-1])
    finite = boxes[torch.isfinite(boxes).all(dim=1)] if boxes.numel() else boxes
    if not len(finite):
        return 64, 64
    return max(8, math.ceil(float(finite[:, 3].max()))), max(8, math.ceil(float(finite[:, 2].max())))


def _delta_facts(levels: Any) -> Any:
    """Yield what is worth knowing of box deltas, a list of [N, 4 * anchors, H, W] with (dx, dy, dw, dh) together."""
    values = torch.cat([level.detach().float().unflatten(1, (-1, 4)).movedim(2, -1).reshape(-1, 4) for level in levels])
    finite = torch.isfinite(values)
    known = values[finite]
    n_bad = int((~finite).sum())
    if n_bad:
        yield f"{n_bad} of {values.numel()} deltas are not finite"
    if known.numel():
        low, high, mean = float(known.min()), float(known.max()), float(known.abs().mean())
        yield f"deltas from {low:.4g} to {high:.4g}, mean magnitude {mean:.3g}"
        n_large = int((values[:, 2:] > _CLAMP).sum())
        if n_large:
            yield f"{n_large} of {2 * len(values)} dw, dh above {_CLAMP:.3f}, where the box coder cuts them off"


def picture_of(found: Proposed, step: int, moment: str) -> Picture:
    """Return the proposals as a picture: the best ones, the target's boxes, and what is wrong in words."""
    height, width = found.size
    content = None
    facts: tuple[str, ...] = ()
    if found.image is not None and png.is_image(found.image) and png.is_available():
        content, _, facts = png.image_png(found.image)
    rows = found.boxes.tolist()
    notes = [what_is_wrong(row, width, height) for row in rows]
    n_bad = sum(note is not None for note in notes)
    # The anomalous ones are shown whatever their rank.
    order = sorted(range(len(rows)), key=lambda k: (notes[k] is None, k))[:_MOST_BOXES]
    boxes = [
        Box(tuple(rows[k]), "anomaly" if notes[k] else "proposal", f"proposal {k}", notes[k]) for k in sorted(order)
    ]
    targets, _ = target_boxes(found.targets, width, height)
    words = [f"{len(rows)} proposals" + (f", {len(boxes)} of them drawn" if len(boxes) < len(rows) else "")]
    if n_bad:
        words.append(f"{n_bad} of them anomalous")
    return Picture(
        "proposals", f"{found.name}, {moment}", width, height, content, None, (*targets, *boxes),
        (*words, *found.deltas, *facts), step,
    )  # fmt: skip
