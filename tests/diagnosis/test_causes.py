"""For each cause evidence that must put it first, and look-alikes that must not."""

import pytest

from whynan.diagnosis.catalogue import diagnose
from whynan.records import (
    BadLeaf,
    BatchFacts,
    Evidence,
    History,
    LossTerm,
    OptimizerFacts,
    PathStep,
    Precision,
    ReplayResult,
    Sample,
    SourceLine,
    Symptom,
)

from .synthetic import INF, NAN, evidence, tensor, zeros

GROWING = History(
    loss=tuple(2.0 * 1.6**i for i in range(60)),
    grad_norm=tuple(1.5**i for i in range(60)),
    lr=(0.3,) * 60,
    weight_norm_start=3.0,
    weight_norm_now=4e6,
)
MODEST = History(GROWING.loss, GROWING.grad_norm, (0.001,) * 60, 3.0, 4e6)
STEADY = History(
    loss=tuple(2.0 * 0.97**i for i in range(60)),
    grad_norm=tuple(1.0 + 0.1 * (i % 3) for i in range(60)),
    lr=(0.001,) * 60,
    weight_norm_start=3.0,
    weight_norm_now=3.4,
)
JUMP = History(STEADY.loss, (*STEADY.grad_norm, 3e9), STEADY.lr, 3.0, 3.1)
SGD = OptimizerFacts("SGD", lr=0.3, momentum=0.9)
ADAM = OptimizerFacts("Adam", lr=0.001, eps=1e-8, betas=(0.9, 0.999))
HALF = Precision(autocast="float16")
HUGE = tensor(-4e19, 4e19)
BACKWARD = PathStep("log", "backward", SourceLine(None, None, None, None), None, "nan")
BOX = BatchFacts(size=4, degenerate_boxes=((1, (5.0, 3.0, 5.0, 9.0)),))
DIVERGED_NLL = History(tuple(-2.0 * 1.6**i for i in range(60)), (), (0.01,) * 60)

FIRST: list[tuple[str, Evidence]] = [
    ("bad-input-values", evidence(bad_leaf=BadLeaf(tensor(role="batch", n_nan=1)))),
    ("bad-input-values", evidence("mm", "forward", tensor(0, 9.97e36, role="batch"),
                                  batch=BatchFacts(8, (tensor(0, 9.97e36, role="batch"),)))),
    # The line that first used it stands for the data; the same row's target is bad too.
    ("bad-input-values", evidence("data", "data", tensor(role="batch", n_nan=1), code="return self.net(x)",
                                  bad_leaf=BadLeaf(tensor(role="batch", n_nan=1)),
                                  batch=BatchFacts(8, (tensor(role="target", n_nan=1),)))),
    # Every sample reaches it: a column of timestamps and no fill value.
    ("extreme-input-scale", evidence("addmm", "forward", tensor(-9e17, 1.7e18), history=History(loss=(1e36, 1e38)),
                                     batch=BatchFacts(40, (tensor(0, 1.7e18, role="batch",
                                                                  extra={"all_reach": 1.7e18}),)))),
    ("bad-target-values", evidence(bad_leaf=BadLeaf(tensor(role="target", n_posinf=1)))),
    # Nothing is left of what the loss got; that it fell below 0 says enough.
    ("loss-input-mismatch", evidence("addmm", "forward", HUGE, history=DIVERGED_NLL, loss_function="nll_loss",
                                     loss_inputs=(NAN, tensor(0, 9, dtype="int64")))),
    ("learning-rate-too-high", evidence("mm", "forward", HUGE, history=MODEST,
                                        optimizer=OptimizerFacts("SGD", lr=0.001, momentum=1.4))),
    ("uninitialized-memory", evidence("empty", "data", bad_leaf=BadLeaf(tensor(role="batch", n_nan=9)))),
    ("bad-target-values", evidence("ctc_loss", "forward", tensor(-9, -0.1), output=INF, loss_function="ctc_loss")),
    ("bad-target-values", evidence("log1p", "forward", tensor(-7.0, 3.0, role="target", n_negative=1))),
    ("label-out-of-range", evidence("log", "forward", tensor(-1.0, 1.0, n_negative=1),
                                    batch=BatchFacts(8, labels_out_of_range=((3, 2.0),)))),
    # The guilty sample alone has another label than 0 and 1, and a power left its domain.
    ("label-out-of-range", evidence("pow", "forward", tensor(-2, 1, n_negative=1), args={"exponent": 0.75},
                                    samples=(Sample(3, 88, None, "replaced"),),
                                    batch=BatchFacts(8, odd_labels=((3, 255.0),)))),
    ("label-out-of-range", evidence("mean", error="IndexError: Target 7 is out of bounds.")),
    ("degenerate-box", evidence("log", "forward", zeros(1), batch=BOX, code="dw = torch.log(gw / aw)", output=INF)),
    ("degenerate-box", evidence("div", "forward", zeros(1), zeros(1), batch=BOX, function="giou")),
    ("degenerate-box", evidence(error="All bounding boxes should have positive height and width. Found [1, 2, 1, 3]")),
    ("empty-target", evidence("nll_loss", "forward", tensor(-3, -0.1), batch=BatchFacts(1, ignored_samples=(0,)))),
    ("empty-target", evidence("mean", "forward", tensor(None, None, (0,)), reduces_nothing=True,
                              batch=BatchFacts(4, empty_targets=(2,)))),
    ("constant-input", evidence("div", "data", zeros(16), zeros(1), code="return (img - img.mean()) / img.std()")),
    ("constant-input", evidence("div", "forward", zeros(16), zeros(1), zero_variance=True,
                                batch=BatchFacts(8, constant_samples=(2,)))),
    ("extreme-input-scale", evidence("mse_loss", "forward", HUGE, history=GROWING, optimizer=SGD,
                                     batch=BatchFacts(8, (tensor(0, 2e6, role="batch"),)))),
    ("extreme-input-scale", evidence("pow", "forward", HUGE, step=1, args={"exponent": 2},
                                     batch=BatchFacts(8, (tensor(0, 3e5, role="target"),)))),
    ("log-of-zero", evidence("log", "forward", zeros(), history=STEADY, optimizer=ADAM, output=INF)),
    ("log-of-zero", evidence("log_", "backward", tensor(-1, 1), zeros())),
    ("log-of-zero", evidence("log1p", "forward", tensor(-1.0, -0.2), output=INF)),
    ("division-by-zero", evidence("div", "forward", zeros(), zeros(), history=STEADY)),
    ("division-by-zero", evidence("true_divide", "forward", tensor(), zeros(),
                                  batch=BatchFacts(8, empty_targets=(1,)))),
    ("division-by-zero", evidence("reciprocal", "forward", zeros(), output=INF)),
    ("division-by-zero", evidence("pow", "forward", zeros(), args={"exponent": -0.5}, output=INF)),
    ("sqrt-at-zero", evidence("sqrt", "backward", zeros())),
    ("sqrt-at-zero", evidence("pow", "backward", zeros(), args={"exponent": 0.5})),
    ("sqrt-at-zero", evidence("cdist", "backward", tensor(0.1, 3))),
    ("sqrt-at-zero", evidence("std", "backward", tensor(0.1, 3))),
    ("exp-overflow", evidence("exp", "forward", tensor(-3, 120), output=INF)),
    # A square overflows on what an exponential has made huge.
    ("exp-overflow", evidence("mse_loss", "forward", HUGE, tensor(1, 764), step=0,
                              extra={"made_by": ["addmm", "exp"]})),
    ("exp-overflow", evidence("exp", "forward", tensor(-3, 120.0, dtype="float16"), output=tensor(dtype="float16"))),
    ("half-precision-overflow", evidence("exp", "forward", tensor(-3, 12.0, dtype="float16"), precision=HALF,
                                         output=tensor(dtype="float16", n_posinf=1))),
    ("domain-error", evidence("acos", "forward", tensor(-0.2, 1.0000001))),
    ("domain-error", evidence("acos", "backward", tensor(-0.2, 1.0))),
    ("domain-error", evidence("log", "forward", tensor(-2, 1, n_negative=4))),
    ("domain-error", evidence("pow", "forward", tensor(-2, 1, n_negative=4), args={"exponent": 1.5})),
    ("domain-error", evidence("acosh", "backward", zeros(), output=INF)),
    ("domain-error", evidence("sqrt", "forward", tensor(-1e-9, 1, n_negative=1))),
    ("fully-masked-softmax", evidence("softmax", "forward", tensor(n_neginf=4), masked_rows=1, intended_infinity=True)),
    ("fully-masked-softmax", evidence("sub", "forward", tensor(n_neginf=4), tensor(n_neginf=1), intended_infinity=True,
                                      code="e = torch.exp(scores - scores.amax(-1, keepdim=True))")),
    ("where-gradient-trap", evidence("log", "backward", zeros(), through_where=True)),
    ("where-gradient-trap", evidence("sqrt", "backward", zeros(), through_where=True)),
    ("where-gradient-trap", evidence("div", "backward", tensor(), zeros(), through_where=True)),
    # The forward -inf is the origin, `where` hides it from the loss, the backward pass meets it.
    ("where-gradient-trap", evidence("log", "forward", zeros(), through_where=True, output=INF,
                                     path=(BACKWARD,))),
    ("inf-minus-inf", evidence("sub", "forward", tensor(n_posinf=1), tensor(n_posinf=1), intended_infinity=True)),
    ("inf-minus-inf", evidence("mul", "forward", tensor(n_posinf=1), zeros(), intended_infinity=True)),
    ("empty-reduction", evidence("mean", "forward", tensor(None, None, (0,)), reduces_nothing=True)),
    ("empty-reduction", evidence("std", "forward", tensor(1, 1, (1,)), reduces_nothing=True)),
    ("learning-rate-too-high", evidence("pow", "forward", HUGE, args={"exponent": 2}, history=GROWING, optimizer=SGD)),
    ("learning-rate-too-high", evidence("mm", "forward", HUGE, HUGE, history=MODEST, optimizer=ADAM)),
    ("learning-rate-too-high", evidence("log", "forward", zeros(), history=GROWING, optimizer=SGD, output=INF)),
    ("learning-rate-too-high", evidence("exp", "forward", tensor(0, 900), history=GROWING, optimizer=SGD)),
    ("exploding-gradient", evidence("mm", "backward", HUGE, tensor(), history=STEADY, module="rnn.cell")),
    ("exploding-gradient", evidence("mm", "backward", HUGE, tensor(), history=JUMP, optimizer=ADAM)),
    ("exploding-gradient", evidence("mm", "forward", HUGE, tensor(), history=MODEST, optimizer=ADAM, module="lstm")),
    ("bad-initialization",
     evidence("_weight_norm_interface", "forward", zeros(32, 0.0, role="parameter"), step=0)),
    ("bad-initialization", evidence("mm", "forward", HUGE, tensor(), step=0,
                                    history=History(largest_gain_start=(("layers.3.weight", 16.0),)))),
    ("bad-initialization", evidence("mm", "forward", HUGE, tensor(-90, 90, (64, 64), role="parameter"), step=0)),
    ("optimizer-epsilon", evidence("addcdiv", "optimizer", zeros(), zeros(),
                                   optimizer=OptimizerFacts("RMSprop", 0.001, 0.0, state_zeros={"square_avg": 8}))),
    # An update written by hand.
    ("optimizer-epsilon", evidence("div", "optimizer", zeros(), zeros(), function="step")),
    ("division-by-zero", evidence(bad_leaf=BadLeaf(tensor(0, 1.4, (5,), role="buffer", n_posinf=1, name="loss.weight"),
                                                   since_step=-1))),
    ("optimizer-epsilon", evidence(symptom=Symptom("parameter", "table.weight", "nan", 1),
                                   optimizer=OptimizerFacts("Adam", 0.001, 0.0, state_zeros={"exp_avg_sq": 8}))),
    ("excessive-regularization", evidence("mul", "forward", HUGE, history=GROWING,
                                          optimizer=OptimizerFacts("SGD", 0.1, weight_decay=60.0))),
    ("excessive-regularization", evidence("pow", "forward", HUGE, args={"exponent": 2}, history=GROWING, optimizer=SGD,
                                          loss_terms=(LossTerm("mse", 3.0), LossTerm("l2_penalty", 1e38, True)))),
    # The data term's layer overflows, but the penalty had become all of the loss.
    ("excessive-regularization", evidence("addmm", "forward", HUGE, history=GROWING, optimizer=SGD,
                                          loss_terms=(LossTerm("task", "nan", True), LossTerm("reg", "inf")),
                                          extra={"terms_before": ({"task": 2.0, "reg": 1.0},
                                                                  {"task": 7e7, "reg": 7e19, "loss": 7e19})})),
    ("half-precision-overflow", evidence("mm", "forward", tensor(-900, 900, dtype="float16"), precision=HALF,
                                         output=tensor(dtype="float16", n_posinf=2), history=STEADY)),
    ("half-precision-underflow", evidence("log", "forward", zeros(dtype="float16"), precision=HALF,
                                          code="loss = -torch.log(p + 1e-8).mean()", output=tensor(dtype="float16"))),
    # The eps has a name.
    ("half-precision-underflow", evidence("div", "forward", zeros(dtype="float16"), zeros(dtype="float16"),
                                          precision=HALF, output=tensor(dtype="float16", n_nan=1),
                                          extra={"named_numbers": {"eps": 1e-8}})),
    ("missing-grad-scaling", evidence("mul", "backward", tensor(-900, 900, dtype="float16"), precision=HALF,
                                      output=tensor(dtype="float16", n_posinf=2))),
    ("normalization-zero-variance", evidence("native_batch_norm", "forward", tensor(2, 2), zero_variance=True,
                                             module_type="BatchNorm2d")),
    ("normalization-zero-variance", evidence("div", "forward", zeros(), zeros(), zero_variance=True,
                                             code="return (x - x.mean()) / x.std()")),
    ("normalization-zero-variance", evidence("std", "backward", tensor(1, 1), zero_variance=True,
                                             function="layer_norm")),
    ("custom-backward", evidence("div", "backward", zeros(), zeros(), in_custom_function="UnitGradient")),
    ("uninitialized-memory", evidence(bad_leaf=BadLeaf(tensor(role="uninitialized", n_nan=3)))),
    ("loss-input-mismatch", evidence("log", "forward", tensor(-2, 3, n_negative=5),
                                     loss_function="binary_cross_entropy", logits_as_probabilities=True)),
    ("loss-input-mismatch", evidence("xlogy", "forward", tensor(-1.3, 1.6, n_negative=9), loss_function="kl_div",
                                     loss_inputs=(tensor(-1.3, 1.6, n_negative=9),) * 2)),
    ("loss-input-mismatch", evidence("nll_loss", "forward", tensor(-9e9, 9e9), loss_function="nll_loss", output=INF,
                                     loss_inputs=(tensor(-9e9, 9e9), tensor(0, 3)), history=DIVERGED_NLL)),
    ("non-reproducible", evidence(replay=ReplayResult(False, "re-yield", "finite twice"))),
]  # fmt: skip

# What must not be first, however alike it looks; what the comment says is the difference.
NOT_FIRST: list[tuple[str, Evidence]] = [
    # The trust ratio of an update by hand: one norm, no state.
    ("optimizer-epsilon", evidence("div", "optimizer", zeros(1, shape=()), zeros(1, shape=()))),
    # Another label than 0 and 1, but it is another sample that fails.
    ("label-out-of-range", evidence("log", "forward", zeros(), batch=BatchFacts(8, odd_labels=((3, 2.0),)),
                                    samples=(Sample(5, 12, None, "replaced"),))),
    # kl_div with a target that is a distribution.
    ("loss-input-mismatch", evidence("log", "forward", zeros(), loss_function="kl_div",
                                     loss_inputs=(tensor(-3, -0.1), tensor(0, 0.9)))),
    # The loss with logits is on the path, and the logarithm elsewhere got zeros of a relu.
    ("loss-input-mismatch", evidence("log", "forward", zeros(), logits_as_probabilities=True, output=INF,
                                     loss_function="binary_cross_entropy_with_logits", loss_inputs=(tensor(-1, 1),))),
    # The data term is what grew.
    ("excessive-regularization", evidence("addmm", "forward", HUGE, history=GROWING, optimizer=SGD,
                                          loss_terms=(LossTerm("task", "nan", True), LossTerm("reg", "inf")),
                                          extra={"terms_before": ({"task": 7e19, "reg": 7e7},)})),
    # A sample that varies, over a recorded number that is 0: no spread of it.
    ("constant-input", evidence("div", "data", tensor(0.01, 0.2), tensor(0, 0, (), n_zero=1),
                                code="img = raw * max(t, 0.2) / t")),
    # The weights grew first: an effect.
    ("log-of-zero", evidence("log", "forward", zeros(), history=GROWING, optimizer=SGD)),
    # No growth: a cause.
    ("learning-rate-too-high", evidence("log", "forward", zeros(), history=STEADY, optimizer=SGD)),
    ("learning-rate-too-high", evidence("exp", "forward", tensor(0, 300), history=STEADY, optimizer=ADAM)),
    # Boxes are there and broken, but what overflowed has nothing to do with them.
    ("degenerate-box", evidence("mm", "forward", HUGE, history=GROWING, optimizer=SGD, batch=BOX, function="forward")),
    # A mask's -inf with something left in each row.
    ("inf-minus-inf", evidence("softmax", "forward", tensor(n_neginf=4), masked_rows=1, intended_infinity=True)),
    # The value of a root at 0 is fine, only its slope is not.
    ("sqrt-at-zero", evidence("sqrt", "forward", zeros())),
    # The gradient was non-finite before the custom function got it.
    ("custom-backward", evidence("log", "backward", zeros(), in_custom_function="F", custom_input_nonfinite=True)),
    # A `where` in the forward pass does no harm.
    ("where-gradient-trap", evidence("log", "forward", zeros(), through_where=True)),
    # An eps that the dtype holds.
    ("optimizer-epsilon", evidence("addcdiv", "optimizer", HUGE, zeros(), optimizer=ADAM)),
    # float32 throughout.
    ("half-precision-overflow", evidence("mm", "forward", HUGE, output=INF)),
    # A box regression term is no regularization.
    ("excessive-regularization", evidence("mul", "forward", HUGE, history=GROWING, optimizer=SGD,
                                          loss_terms=(LossTerm("rpn_cls", 2.0), LossTerm("rpn_box_reg", 1e38, True)))),
    # Nothing could be replayed: that says nothing about the machine.
    ("non-reproducible", evidence(replay=ReplayResult(False, "none", "no loop was found"))),
    # A scaler handles overflow of scaled gradients.
    ("missing-grad-scaling", evidence("mul", "backward", tensor(-900, 900, dtype="float16"),
                                      precision=Precision("float16", scaler=True), output=INF)),
    # Images of 0 to 255 are unnormalised, not extreme.
    ("extreme-input-scale", evidence("mse_loss", "forward", HUGE, history=GROWING, optimizer=SGD,
                                     batch=BatchFacts(8, (tensor(0, 255, role="batch"),)))),
]  # fmt: skip


def slugs(given: Evidence) -> list[str]:
    notes: list[str] = []
    causes, _ = diagnose(given, notes)
    assert not notes
    return [cause.slug for cause in causes]


@pytest.mark.parametrize(("slug", "given"), FIRST, ids=[f"{i}-{slug}" for i, (slug, _) in enumerate(FIRST)])
def test_cause_comes_first(slug: str, given: Evidence) -> None:
    assert slugs(given)[:1] == [slug]


@pytest.mark.parametrize(("slug", "given"), NOT_FIRST, ids=[f"{i}-{slug}" for i, (slug, _) in enumerate(NOT_FIRST)])
def test_lookalike_does_not_come_first(slug: str, given: Evidence) -> None:
    assert slugs(given)[:1] != [slug]


def test_growth_names_both_of_its_causes() -> None:
    found = slugs(evidence("mm", "forward", HUGE, HUGE, history=GROWING, optimizer=SGD))
    assert {"learning-rate-too-high", "exploding-gradient"} <= set(found[:3])


def test_unrestored_state_makes_a_finite_replay_weak_evidence() -> None:
    causes, _ = diagnose(evidence(replay=ReplayResult(False, "re-yield", None, ("generator",))))
    assert causes[0].slug == "non-reproducible" and causes[0].confidence < 0.5


def test_every_cause_is_tested() -> None:
    from .test_catalogue import CAUSES

    assert {slug for slug, _ in FIRST} == set(CAUSES)


def test_confidence_lies_between_0_and_1_and_facts_are_there() -> None:
    for slug, given in FIRST:
        for cause in diagnose(given)[0]:
            assert 0 < cause.confidence < 1
            assert cause.explanation.endswith((".", ")")) or cause.explanation.startswith("The step ended"), slug
    assert NAN.n_nan
