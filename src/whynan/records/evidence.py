"""What a cause may look at: facts measured on the failing step and on the steps before it, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whynan.records.op import Op, PathStep, SourceLine, TensorSummary
from whynan.records.recording import LossTerm, ReplayResult, Sample, Symptom


@dataclass(frozen=True)
class BadLeaf:
    """A tensor that was non-finite before the step touched it: the walk ended here and not at an operation.

    `tensor.role` says what it is: "batch" (an input), "target", "parameter", "buffer", "state" (carried from an
    earlier step), "uninitialized" (memory that nobody wrote). `since_step` is the step that wrote the value (-1:
    before the first step), where it is known.
    """

    tensor: TensorSummary
    since_step: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class History:
    """Series over the steps before the incident, oldest first, at most a few thousand points each.

    `loss` and `grad_norm` may end with the failing step's own non-finite value. `lr` is the largest learning rate of
    any parameter group. `weight_norm_start` and `weight_norm_now` are global L2 norms over all parameters.
    """

    loss: tuple[float, ...] = ()
    grad_norm: tuple[float, ...] = ()
    lr: tuple[float, ...] = ()
    weight_norm_start: float | None = None
    weight_norm_now: float | None = None
    weight_abs_max_start: float | None = None
    weight_abs_max_now: float | None = None
    largest_growth: tuple[tuple[str, float], ...] = ()
    """Parameters by name with how much their norm has grown since the start, largest first, a few of them."""
    largest_gain_start: tuple[tuple[str, float], ...] = ()
    """Matrices and kernels by name with std * sqrt(fan_in) at the start, largest first, a few of them, embeddings left
    out. Usual initializations give 0.5 to 1.5."""


@dataclass(frozen=True)
class OptimizerFacts:
    """One optimizer: class name, hyperparameters of its first group, how it keeps its state."""

    name: str
    lr: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    n_parameters: int = 0
    state_zeros: dict[str, int] = field(default_factory=dict)
    """How many elements of each state tensor ("exp_avg_sq", "square_avg") are exactly 0."""
    source: SourceLine | None = None
    """The user's line that made the optimizer, where it is known."""


@dataclass(frozen=True)
class Precision:
    """In which precision the step ran. `autocast` is a dtype's name; `scale` GradScaler's scale where one is used."""

    autocast: str | None = None
    parameters: str = "float32"
    scaler: bool = False
    scale: float | None = None
    n_skipped_in_a_row: int = 0


@dataclass(frozen=True)
class BatchFacts:
    """The batch as the step got it: tensors by name ("x", "y", "targets[0].boxes"), and what is wrong in it.

    `degenerate_boxes` are (position in the batch, box as 4 floats) with no width or no height; `constant_samples` are
    positions whose input has one value only; `ignored_samples` positions whose whole target is the ignore index.
    `size` is the number of samples, None where it could not be told.
    """

    size: int | None = None
    tensors: tuple[TensorSummary, ...] = ()
    degenerate_boxes: tuple[tuple[int, tuple[float, ...]], ...] = ()
    constant_samples: tuple[int, ...] = ()
    ignored_samples: tuple[int, ...] = ()
    empty_targets: tuple[int, ...] = ()
    box_words: tuple[tuple[int, str], ...] = ()
    """(position, what is wrong with which box of the sample) for the degenerate boxes."""
    labels_out_of_range: tuple[tuple[int, float], ...] = ()
    odd_labels: tuple[tuple[int, float], ...] = ()
    """(position, value) in a target that is 0 or 1 in all other samples."""


@dataclass(frozen=True)
class Evidence:
    """Everything measured. Fields that a framework or a step cannot give are None, empty or False."""

    symptom: Symptom
    replay: ReplayResult
    framework: str = "torch"
    """The one whose words a change is written in."""
    origin: Op | None = None
    path: tuple[PathStep, ...] = ()
    bad_leaf: BadLeaf | None = None
    samples: tuple[Sample, ...] = ()
    loss_terms: tuple[LossTerm, ...] = ()
    history: History = History()
    optimizer: OptimizerFacts | None = None
    precision: Precision = Precision()
    batch: BatchFacts = BatchFacts()

    intended_infinity: bool = False
    """The origin's inputs hold an infinity that was put there on purpose (a mask's -inf, a literal)."""
    masked_rows: int = 0
    """Rows of a softmax's input that are -inf throughout."""
    through_where: bool = False
    """Between origin and symptom a `where` (or masked select) has the branch that was not taken."""
    reduces_nothing: bool = False
    """The origin reduces over zero elements, or takes the spread of fewer than two."""
    in_custom_function: str | None = None
    """Name of the user's own autograd function in whose backward (or forward) the origin lies."""
    custom_input_nonfinite: bool = False
    zero_variance: bool = False
    """The origin, or the op that feeds it, normalises values that are all the same."""
    loss_function: str | None = None
    """The framework's loss on the path ("binary_cross_entropy", "nll_loss", "ctc_loss", ...), where there is one."""
    loss_inputs: tuple[TensorSummary, ...] = ()
    """That loss's inputs, in its own order: predictions first, then targets."""
    logits_as_probabilities: bool = False
    """The loss takes probabilities and got numbers that no softmax or sigmoid made."""
    assigned: Mapping[str, str] = field(default_factory=dict)
    """What names hold in the function of the origin's line, as source text, and what short names of modules mean."""
    error: str | None = None
    """Text of the exception that ended the step, where one did ("All bounding boxes should have positive ...")."""
    extra: dict[str, Any] = field(default_factory=dict)
