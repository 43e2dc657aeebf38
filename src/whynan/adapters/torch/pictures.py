"""Pictures of the offending sample, with its target's boxes or mask, and of the boxes that a module proposes; as PNG.

Proposals are those of torchvision's RPN, and of modules named to us. They are read in the first two steps of a run
whose model has such a module, and in the replay of a step that failed; in between nothing is hooked.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from whynan.adapters.torch.data.batch import keep_samples
from whynan.adapters.torch.data.batch import leaves as leaves_of
from whynan.adapters.torch.samples import SampleSearch
from whynan.launch.host import tell
from whynan.records import Box, Picture

if TYPE_CHECKING:
    from whynan.adapters.torch.plan import Plan

_LONGEST = 640
_NOT_FINITE = (255, 0, 255)
_COLOURS = [
    (66, 133, 244), (52, 168, 83), (251, 188, 4), (171, 71, 188), (0, 172, 193), (255, 112, 67), (158, 157, 36),
    (92, 107, 192),
]  # fmt: skip
_MOST_CLASSES = 6
_NO_CLASS = (220, 30, 30)
_MOST_BOXES = 200
_MOST_PICTURES = 3
_TINY = 1e-6
FIRST_STEPS = 2
_MOST_PROPOSED = 40
_RPN = "RegionProposalNetwork"
_CLAMP = math.log(1000.0 / 16)
"""torchvision's box coder takes no larger dw or dh (`BoxCoder.bbox_xform_clip`)."""


def is_image(tensor: Any) -> bool:
    """Return whether a tensor can be shown: 1, 3 or 4 channels first, or a single plane of numbers."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() == 3
        and tensor.shape[0] in (1, 3, 4)
        and min(tensor.shape[1:]) >= 8
        and (tensor.is_floating_point() or tensor.dtype == torch.uint8)
    )


def image_png(tensor: Any) -> tuple[bytes, float, tuple[str, ...]]:
    """Return (the PNG, its scale against the tensor, facts) of an image [C, H, W]."""
    values = tensor.detach().to("cpu", torch.float32)[:3]
    values = values if values.shape[0] == 3 else values[:1].expand(3, -1, -1)
    finite = torch.isfinite(values)
    known = values[finite]
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)
    span = (high - low) or 1.0
    levels = ((values.nan_to_num(low, high, low) - low) / span * 255).clamp(0, 255).to(torch.uint8)
    bad = ~finite.all(dim=0)
    for channel, colour in enumerate(_NOT_FINITE):
        levels[channel][bad] = colour
    facts = [f"shown from {low:.4g} (black) to {high:.4g} (white)"] if low < high else []
    if not known.numel():
        facts.append("no value is finite")
    if bool(bad.any()):
        facts.append(f"{int(bad.sum())} of {bad.numel()} pixels are not finite, in magenta")
    elif low == high:
        facts.append(f"constant: every pixel is {low:.4g}")
    picture = _pillow().fromarray(levels.permute(1, 2, 0).contiguous().numpy())
    scale = min(1.0, _LONGEST / max(picture.size))
    if scale < 1.0:
        picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    return _encoded(picture), scale, tuple(facts)


def mask_png(mask: Any, scale: float, n_classes: int | None = None) -> bytes:
    """Return the PNG of a mask [H, W] of class numbers: colours for classes, red for what is outside of them.

    Class 0 is transparent, as backgrounds are.
    """
    numbers = mask.detach().to("cpu", torch.int64)
    table = torch.tensor([(*_COLOURS[k % len(_COLOURS)], 130) for k in range(256)], dtype=torch.uint8)
    table[0] = 0
    outside = (numbers < 0) | (numbers > 255 if n_classes is None else numbers >= n_classes)
    pixels = table[numbers.clamp(0, 255)]
    pixels[outside] = torch.tensor((*_NO_CLASS, 170), dtype=torch.uint8)
    picture = _pillow().fromarray(pixels.contiguous().numpy(), "RGBA")
    if scale < 1.0:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, _pillow().Resampling.NEAREST)
    return _encoded(picture)


def mask_facts(mask: Any) -> str:
    """Return the classes of a mask with their shares, largest first: "mask: class 0 in 62 %, 255 in 38 % of it"."""
    classes, counts = mask.reshape(-1).to("cpu", torch.int64).unique(return_counts=True)
    order = counts.argsort(descending=True)[:_MOST_CLASSES].tolist()
    shares = [f"{int(classes[k])} in {int(counts[k]) / mask.numel():.0%}" for k in order]
    more = f", and {len(classes) - len(shares)} more" if len(classes) > len(shares) else ""
    return f"mask: class {', '.join(shares)} of the pixels{more}"


def is_available() -> bool:
    """Return whether Pillow, which writes the files, is installed."""
    import importlib.util

    return importlib.util.find_spec("PIL") is not None


def _pillow() -> Any:
    import PIL.Image

    return PIL.Image


def _encoded(picture: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()


def sample_pictures(plan: "Plan", search: SampleSearch) -> tuple[Picture, ...]:
    """Return a picture of each guilty sample that is an image; nothing where none is, or Pillow is not installed."""
    if not search.samples or search.size is None or not is_available():
        return ()
    found = []
    for sample in search.samples[:_MOST_PICTURES]:
        if sample.position is None:
            continue
        try:
            name = f"dataset index {sample.index}" if sample.index is not None else f"row {sample.position}"
            picture = _picture(search, sample.position, name, plan.pending.step)
        except Exception as error:
            tell("making a picture of the sample failed", error)
            continue
        if picture is not None:
            found.append(picture)
    return tuple(found)


def _picture(search: SampleSearch, position: int, name: str, step: int) -> Picture | None:
    parts = [*search.batch.names.items(), *((f"batch{k}", item) for k, item in enumerate(search.batch.drawn))]
    leaves: list[tuple[str, Any]] = []
    whole = dict(parts)
    size = search.batch.size or search.size
    kept = keep_samples(whole, [position], size)
    for text, leaf in leaves_of(kept):
        tensor = leaf if isinstance(leaf, torch.Tensor) else torch.as_tensor(leaf)
        leaves.append((text, tensor.detach()))
    images = [(text, _one(tensor)) for text, tensor in leaves]
    found = next(((text, tensor) for text, tensor in images if is_image(tensor) and not _is_target(text)), None)
    if found is None:
        return None
    where, image = found
    content, scale, facts = image_png(image)
    height, width = (int(side) for side in image.shape[1:])
    others = [(text, tensor) for text, tensor in leaves if text != where]
    boxes, words = target_boxes(others, width, height)
    overlay, mask_words = _mask(others, height, width, scale)
    return Picture(
        "sample",
        f"{name}, as the model got it",
        width,
        height,
        content,
        overlay,
        boxes,
        (*facts, *words, *mask_words),
        step,
    )


def _one(tensor: Any) -> Any:
    """Return the sample itself of a batch of one."""
    return tensor[0] if tensor.dim() == 4 and tensor.shape[0] == 1 else tensor


def _is_target(text: str) -> bool:
    return any(word in text.lower() for word in ("target", "mask", "label", "box"))


def target_boxes(leaves: list[tuple[str, Any]], width: int, height: int) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Return the boxes among a target's tensors, x1, y1, x2, y2 in pixels, and what is wrong with them in words."""
    table = next((tensor for text, tensor in leaves if "box" in text.lower() and _is_table(tensor)), None)
    if table is None:
        return (), ()
    rows = table.reshape(-1, 4).to("cpu", torch.float64)
    finite = rows[torch.isfinite(rows)]
    if finite.numel() and float(finite.abs().max()) <= 1.0 and max(width, height) > 8:
        return (), ("boxes are given as shares of the image and are not drawn",)
    labels = next((tensor for text, tensor in leaves if "label" in text.lower() and tensor.dim() <= 2), None)
    numbers = labels.reshape(-1).tolist() if labels is not None and labels.numel() == len(rows) else None
    boxes = []
    for k, corners in enumerate(rows.tolist()[:_MOST_BOXES]):
        note = what_is_wrong(corners, width, height)
        label = f"class {numbers[k]}" if numbers is not None else None
        boxes.append(Box(tuple(corners), "anomaly" if note else "target", label, note))
    words = [f"{len(rows)} target boxes"] if len(rows) else ["no target box"]
    n_bad = sum(box.kind == "anomaly" for box in boxes)
    if n_bad:
        words.append(f"{n_bad} of them anomalous")
    return tuple(boxes), tuple(words)


def _is_table(tensor: Any) -> bool:
    return bool(tensor.dim() >= 2 and tensor.shape[-1] == 4)


def what_is_wrong(corners: list[float], width: int, height: int) -> str | None:
    """Return what is wrong with a box x1, y1, x2, y2 in an image of this size; None where nothing is."""
    if not all(map(math.isfinite, corners)):
        return "a corner is not finite"
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        return f"its size is negative: {x2 - x1:g} x {y2 - y1:g}"
    if x2 - x1 < _TINY or y2 - y1 < _TINY:
        return f"no {'width' if x2 - x1 < _TINY else 'height'}: {x2 - x1:g} x {y2 - y1:g}"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return "outside of the image"
    return None


def _mask(leaves: list[tuple[str, Any]], height: int, width: int, scale: float) -> tuple[bytes | None, tuple[str, ...]]:
    for _, tensor in leaves:
        if tensor.is_floating_point() or tensor.is_complex():
            continue
        if tuple(tensor.shape[-2:]) != (height, width):
            continue
        planes = tensor.reshape(-1, height, width).to(torch.int64)
        if len(planes) == 1:
            return mask_png(planes[0], scale), (mask_facts(planes[0]),)
        if int(planes.max()) <= 1:  # one plane for each object
            numbers = torch.arange(1, len(planes) + 1)[:, None, None]
            return mask_png((planes * numbers).amax(0), scale), (f"masks of {len(planes)} objects",)
    return None, ()


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
    if found.image is not None and is_image(found.image) and is_available():
        content, _, facts = image_png(found.image)
    rows = found.boxes.tolist()
    notes = [what_is_wrong(row, width, height) for row in rows]
    n_bad = sum(note is not None for note in notes)
    # The anomalous ones are shown whatever their rank.
    order = sorted(range(len(rows)), key=lambda k: (notes[k] is None, k))[:_MOST_PROPOSED]
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
