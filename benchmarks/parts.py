"""Measure the parts of `whynan.torch` against what people write without them: forward and backward, eager and compiled.

    python benchmarks/parts.py [--rounds 15] [--threads 1] [--compiled] [PART ...]

Each round times the plain counterpart and the part one after the other; the number is the median ratio over the
rounds. Counterparts
are PyTorch's own functions, torchvision's for boxes and focal loss, and the usual lines where there is no function.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision
from torch.nn import functional as F

from whynan.torch import clip, losses, ops

ELEMENTS = 1_000_000


class Pair(NamedTuple):
    part: Callable[..., torch.Tensor]
    plain: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]


def boxes(count: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2) * 800
    return torch.cat([corners[:, 0], corners[:, 0] + corners[:, 1] / 4 + 1], 1)


def plain_standardize(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


def plain_dice(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    hit = (p * y).sum((1, 2))
    return (1 - 2 * hit / (p.sum((1, 2)) + y.sum((1, 2)))).mean()


def plain_jaccard(p: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    hit = (p * y).sum((1, 2))
    return (1 - hit / (p.sum((1, 2)) + y.sum((1, 2)) - hit)).mean()


def plain_lovasz(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Berman's published code, vectorised over nothing, as it is used."""
    p = torch.softmax(logits, 1).movedim(1, 0).flatten(1)
    terms = []
    for index, row in enumerate(p):
        foreground = (target.flatten() == index).float()
        if foreground.sum() == 0:
            continue
        errors, order = torch.sort((foreground - row).abs(), descending=True)
        truth = foreground[order]
        whole = truth.sum()
        jaccard = 1 - (whole - truth.cumsum(0)) / (whole + (1 - truth).cumsum(0))
        jaccard[1:] = jaccard[1:] - jaccard[:-1]
        terms.append(torch.dot(errors, jaccard))
    return torch.stack(terms).mean()


def plain_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    width = torch.min(a[:, 2], b[:, 2]) - torch.max(a[:, 0], b[:, 0])
    height = torch.min(a[:, 3], b[:, 3]) - torch.max(a[:, 1], b[:, 1])
    overlap = width.clamp(min=0) * height.clamp(min=0)
    areas = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]) + (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return (1 - overlap / (areas - overlap)).mean()


def plain_info_nce(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    logits = F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T / 0.07
    return F.cross_entropy(logits, torch.arange(len(query)))


def plain_rpn(objectness, deltas, labels, targets):
    kept, positive = torch.where(labels >= 0)[0], torch.where(labels > 0)[0]
    regression = F.smooth_l1_loss(deltas[positive], targets[positive], beta=1 / 9, reduction="sum") / kept.numel()
    return F.binary_cross_entropy_with_logits(objectness[kept], (labels[kept] > 0).float()) + regression


def plain_fast_rcnn(logits, regression, labels, targets):
    positive = torch.where(labels > 0)[0]
    chosen = regression.reshape(len(labels), -1, 4)[positive, labels[positive]]
    box = F.smooth_l1_loss(chosen, targets[positive], beta=1 / 9, reduction="sum") / labels.numel()
    return F.cross_entropy(logits, labels) + box


def plain_contrastive(a, b, same):
    distance = F.pairwise_distance(a, b)
    return 0.5 * (same * distance**2 + (1 - same) * F.relu(1.0 - distance) ** 2).mean()


def pairs() -> dict[str, Pair]:
    torch.manual_seed(0)
    x, z = torch.rand(ELEMENTS) + 0.1, torch.randn(ELEMENTS)
    rows, mask = torch.randn(1000, 1000), torch.rand(1000, 1000) > 0.3
    y = torch.randint(0, 2, (ELEMENTS,)).float()
    p = torch.rand(ELEMENTS) * 0.98 + 0.01
    images, masks = torch.rand(16, 256, 256), torch.randint(0, 2, (16, 256, 256)).float()
    labels = torch.randint(0, 1000, (1024,))
    few = boxes(4096)
    near = few + torch.rand_like(few)
    pixels, classes = torch.randn(2, 8, 128, 128), torch.randint(0, 8, (2, 128, 128))
    frames = torch.randn(100, 16, 40).log_softmax(2)
    texts, lengths = torch.randint(1, 40, (16, 20)), (torch.full((16,), 100), torch.full((16,), 20))
    anchors = torch.randint(-1, 2, (20000,))
    proposals = torch.randint(0, 91, (2048,))
    half = z * 0.5
    sure = torch.randn(1024, 1000), labels
    sure[0].scatter_(1, labels[:, None], 20.0)
    return {
        "ops.log": Pair(ops.log, torch.log, (x,)),
        "ops.log1p": Pair(ops.log1p, torch.log1p, (x,)),
        "ops.sqrt": Pair(ops.sqrt, torch.sqrt, (x,)),
        "ops.exp": Pair(ops.exp, torch.exp, (z,)),
        "ops.div": Pair(ops.div, torch.div, (z, x)),
        "ops.reciprocal": Pair(ops.reciprocal, torch.reciprocal, (x,)),
        "ops.pow": Pair(lambda v: ops.pow(v, 1.7), lambda v: torch.pow(v, 1.7), (x,)),
        "ops.acos": Pair(ops.acos, torch.acos, (p,)),
        "ops.asin": Pair(ops.asin, torch.asin, (p,)),
        "ops.atan2": Pair(ops.atan2, torch.atan2, (z, x)),
        "ops.norm": Pair(lambda v: ops.norm(v, 1), lambda v: torch.linalg.vector_norm(v, dim=1), (rows,)),
        "ops.normalize": Pair(lambda v: ops.normalize(v, 1), lambda v: F.normalize(v, dim=1), (rows,)),
        "ops.std": Pair(lambda v: ops.std(v, 1), lambda v: v.std(1), (rows,)),
        "ops.var": Pair(lambda v: ops.var(v, 1), lambda v: v.var(1), (rows,)),
        "ops.standardize": Pair(lambda v: ops.standardize(v, 1), plain_standardize, (rows,)),
        "ops.logsumexp": Pair(lambda v: ops.logsumexp(v, 1), lambda v: torch.logsumexp(v, 1), (rows,)),
        "ops.softmax": Pair(lambda v: ops.softmax(v, 1), lambda v: torch.softmax(v, 1), (rows,)),
        "ops.softmax, mask": Pair(
            lambda v: ops.softmax(v, 1, mask), lambda v: torch.softmax(v.masked_fill(~mask, -torch.inf), 1), (rows,)
        ),
        "ops.masked_mean": Pair(lambda v: ops.masked_mean(v, mask), lambda v: v[mask].mean(), (rows,)),
        "binary_cross_entropy": Pair(
            lambda v: losses.binary_cross_entropy(v, y), lambda v: F.binary_cross_entropy(v, y), (p,)
        ),
        "binary_cross_entropy_with_logits": Pair(
            lambda v: losses.binary_cross_entropy_with_logits(v, y),
            lambda v: F.binary_cross_entropy_with_logits(v, y),
            (z,),
        ),
        "cross_entropy": Pair(
            lambda v: losses.cross_entropy(v, labels), lambda v: F.cross_entropy(v, labels), (torch.randn(1024, 1000),)
        ),
        "cross_entropy, learned": Pair(
            lambda v: losses.cross_entropy(v, sure[1]), lambda v: F.cross_entropy(v, sure[1]), (sure[0],)
        ),
        "cross_entropy, 91 classes": Pair(
            lambda v: losses.cross_entropy(v, proposals),
            lambda v: F.cross_entropy(v, proposals),
            (torch.randn(2048, 91),),
        ),
        "categorical_cross_entropy": Pair(
            lambda v: losses.categorical_cross_entropy(v, labels),
            lambda v: F.nll_loss(torch.log(v), labels),
            (torch.softmax(torch.randn(1024, 1000), 1),),
        ),
        "focal_loss": Pair(
            lambda v: losses.focal_loss(v, y),
            lambda v: torchvision.ops.sigmoid_focal_loss(v, y, reduction="mean"),
            (z,),
        ),
        "dice_loss": Pair(lambda v: losses.dice_loss(v, masks), lambda v: plain_dice(v, masks), (images,)),
        "jaccard_loss": Pair(lambda v: losses.jaccard_loss(v, masks), lambda v: plain_jaccard(v, masks), (images,)),
        "lovasz_softmax_loss": Pair(
            lambda v: losses.lovasz_softmax_loss(v, classes), lambda v: plain_lovasz(v, classes), (pixels,)
        ),
        "smooth_l1_loss": Pair(lambda v: losses.smooth_l1_loss(v, half), lambda v: F.smooth_l1_loss(v, half), (z,)),
        "relative_error_loss": Pair(
            lambda v: losses.relative_error_loss(v, y),
            lambda v: (torch.square(v - y) / torch.abs(v - y)).mean(),
            (z,),
        ),
        "gaussian_nll_loss": Pair(
            lambda m, v: losses.gaussian_nll_loss(m, y, v),
            lambda m, v: F.gaussian_nll_loss(m, y, v.exp()),
            (z, half),
        ),
        "kl_divergence_normal": Pair(
            losses.kl_divergence_normal, lambda m, v: (-0.5 * (1 + v - m.pow(2) - v.exp())).mean(), (z, half)
        ),
        "iou_loss": Pair(
            lambda v: losses.iou_loss(v, near),
            lambda v: plain_iou(v, near),
            (few,),
        ),
        "giou_loss": Pair(
            lambda v: losses.giou_loss(v, near),
            lambda v: torchvision.ops.generalized_box_iou_loss(v, near, reduction="mean"),
            (few,),
        ),
        "diou_loss": Pair(
            lambda v: losses.diou_loss(v, near),
            lambda v: torchvision.ops.distance_box_iou_loss(v, near, reduction="mean"),
            (few,),
        ),
        "ciou_loss": Pair(
            lambda v: losses.ciou_loss(v, near),
            lambda v: torchvision.ops.complete_box_iou_loss(v, near, reduction="mean"),
            (few,),
        ),
        "ctc_loss": Pair(
            lambda v: losses.ctc_loss(v, texts, *lengths), lambda v: F.ctc_loss(v, texts, *lengths), (frames,)
        ),
        "contrastive_loss": Pair(
            lambda a, b: losses.contrastive_loss(a, b, y[:4096]),
            lambda a, b: plain_contrastive(a, b, y[:4096]),
            (torch.randn(4096, 128), torch.randn(4096, 128)),
        ),
        "info_nce_loss": Pair(losses.info_nce_loss, plain_info_nce, (torch.randn(512, 128), torch.randn(512, 128))),
        "rpn_loss": Pair(
            lambda o, d: sum(losses.rpn_loss(o, d, anchors, d.detach() * 0.5).values()),
            lambda o, d: plain_rpn(o, d, anchors, d.detach() * 0.5),
            (torch.randn(20000), torch.randn(20000, 4)),
        ),
        "fast_rcnn_loss": Pair(
            lambda c, r: sum(losses.fast_rcnn_loss(c, r, proposals, r.detach()[:, :4]).values()),
            lambda c, r: plain_fast_rcnn(c, r, proposals, r.detach()[:, :4]),
            (torch.randn(2048, 91), torch.randn(2048, 364)),
        ),
    }


def step(function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...]) -> None:
    result = function(*inputs)
    torch.autograd.grad(result, inputs, torch.ones_like(result))


def seconds(function: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], repeats: int) -> float:
    # Processor time, which other programs disturb less than the clock on the wall.
    start = time.process_time()
    for _ in range(repeats):
        step(function, inputs)
    return (time.process_time() - start) / repeats


def compare(pair: Pair, rounds: int, compiled: bool) -> tuple[float, float]:
    """Return the median ratio and the median seconds of the plain counterpart."""
    part, plain = pair.part, pair.plain
    if compiled:
        torch._dynamo.reset()
        part, plain = torch.compile(part), torch.compile(plain)
    inputs = tuple(x.clone().requires_grad_() for x in pair.inputs)
    for _ in range(3):
        step(part, inputs)
        step(plain, inputs)
    repeats = max(1, int(0.02 / seconds(plain, inputs, 2)))
    ratios, times = [], []
    for index in range(rounds):
        first, second = (plain, part) if index % 2 else (part, plain)
        one, two = seconds(first, inputs, repeats), seconds(second, inputs, repeats)
        ratios.append(two / one if index % 2 else one / two)
        times.append(one if index % 2 else two)
    return statistics.median(ratios), statistics.median(times)


def gradients() -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    models = [torchvision.models.resnet18() for _ in range(2)]
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
    return list(models[0].parameters()), list(models[1].parameters())


def compare_clipping(rounds: int) -> tuple[float, float]:
    ours, theirs = gradients()
    ratios, times = [], []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        middle = time.perf_counter()
        clip.clip_by_global_norm(ours, 1.0)
        ratios.append((time.perf_counter() - middle) / (middle - start))
        times.append(middle - start)
    return statistics.median(ratios[3:]), statistics.median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="only these")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiled", action="store_true", help="both sides under torch.compile")
    parser.add_argument(
        "--threads", type=int, default=1, help="of PyTorch; more than one measures waiting on a busy machine"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {'compiled' if options.compiled else 'eager'}"
    )
    print(f"{'part':36} {'ratio':>6} {'plain ms':>9}")
    for name, pair in pairs().items():
        if not options.parts or name in options.parts:
            try:
                ratio, plain = compare(pair, options.rounds, options.compiled)
            except Exception as error:  # One part that a compiler cannot do is no reason to lose the others.
                print(f"{name:36} {type(error).__name__}: {str(error).splitlines()[0][:70]}", flush=True)
                continue
            print(f"{name:36} {ratio:6.2f} {1e3 * plain:9.3f}", flush=True)
    if not options.compiled and (not options.parts or "clip_by_global_norm" in options.parts):
        ratio, plain = compare_clipping(options.rounds)
        print(f"{'clip_by_global_norm':36} {ratio:6.2f} {1e3 * plain:9.3f}")


if __name__ == "__main__":
    main()
