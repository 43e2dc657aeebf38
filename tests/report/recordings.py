"""Recordings to render: one with everything, one with almost nothing, one that is out to do harm."""

import struct
import zlib
from dataclasses import replace

from whynan.records import (
    Box,
    CauseFound,
    Experiment,
    Incident,
    LookBack,
    LossTerm,
    Op,
    PathStep,
    Picture,
    Recording,
    RemedyProposed,
    ReplayResult,
    RunInfo,
    Sample,
    SourceLine,
    Symptom,
    TensorSummary,
)

NAN, INF = float("nan"), float("inf")

PATCH = """--- a/train.py
+++ b/train.py
@@ -58 +58 @@
-    angle = torch.acos(cos)
+    angle = torch.acos(cos.clamp(-1 + 1e-6, 1 - 1e-6))
"""

RUN = RunInfo(
    argv=("train.py", "--data", "my data"),
    framework="torch",
    versions={"torch": "2.15.0", "python": "3.11.7"},
    device="cpu",
    started="2026-11-21T12:54:44+00:00",
    seconds=12.3456,
    steps=1417,
)

SYMPTOM = Symptom("loss", "loss", "nan", step=1417, epoch=3, detail="before backward at train.py:80")

ORIGIN = Op(
    op="acos",
    framework_op="aten.acos.default",
    phase="forward",
    source=SourceLine("train.py", 58, "rotation_loss", "angle = torch.acos(cos)"),
    module="model.head",
    inputs=(TensorSummary((32,), "float32", -1.0, 1.0000001, n_zero=3),),
    output=TensorSummary((32,), "float32", 0.0, 3.0, n_nan=1),
    elements=((17,),),
)

PATH = tuple(
    PathStep(op, "forward", SourceLine("train.py", line, "rotation_loss", None), None, "nan")
    for op, line in (("acos", 58), ("mul", 59), ("mean", 60), ("add", 61), ("mul", 70), ("add", 80))
)

CAUSES = (
    CauseFound(
        "domain-error",
        0.97,
        "acos got 1.0000001; its domain ends at 1",
        "A function got an argument outside its domain: rounding takes the cosine of parallel vectors past 1.",
        ("largest input 1.0000001",),
    ),
    CauseFound("exploding-gradient", 0.2, "gradients grow", "The gradient norm grew in the last steps.", ()),
)

REMEDIES = (
    RemedyProposed(
        "clamp-or-eps", "clamp the cosine inside its domain", "train.py:58", PATCH, True, "the step is finite"
    ),
    RemedyProposed("lower-learning-rate", "learning rate / 10", None, None, False, "still nan"),
    RemedyProposed("full-precision", "float64 for this op", "train.py:58", "cos.double()", None, None),
)

EXPERIMENTS = (
    Experiment("nothing: the step as it was", "control", None, 1, False, outcome="loss is nan"),
    Experiment("the cosine clamped", "confirmed", "clamp-or-eps", 1, True, 0.4321, 2.5, "finite over the step"),
    Experiment("learning rate divided by 10", "refuted", "lower-learning-rate", 9, False, outcome="still nan"),
    Experiment("float64", "inconclusive", "full-precision", outcome="there was nothing to apply it to"),
)

LOOK_BACK = LookBack(
    steps=(1415, 1416, 1417),
    layers=("model.backbone.0.convolution.of.many", "model.head"),
    grad_norm=((1.0, 2.0, None), (0.5, INF, NAN)),
    update_ratio=((1e-3, 2e-3, None), (1e-3, 0.1, None)),
    activation=((3.0, 4.0, 5.0), (1.0, 1.0, NAN)),
    terms={"loss_rot": (0.1, 0.2, NAN), "loss_box": (0.5, 0.45, 0.4)},
)


def png(width: int = 16, height: int = 12, colour: tuple[int, int, int] = (90, 120, 60)) -> bytes:
    """A picture of one colour, made without a library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PICTURES = (
    Picture(
        "sample",
        "dataset index 9310, as the model got it",
        16,
        12,
        png(),
        png(colour=(200, 0, 0)),
        (Box((1, 1, 9, 9), "target", "class 1"), Box((3, 5, 3, 9), "anomaly", "class 2", "no width: 0 x 4")),
        ("shown from 0 (black) to 1 (white)", "2 target boxes", "1 of them anomalous"),
        1417,
    ),
    Picture("proposals", "rpn, at step 0", 16, 12, None, None, (Box((0, 0, INF, NAN), "proposal", "proposal 0"),)),
)

EVERYTHING = Incident(
    symptom=SYMPTOM,
    replay=ReplayResult(True, "re-yield", not_restored=("the file log.txt",)),
    origin=ORIGIN,
    path=PATH,
    samples=(Sample(17, 9310, "img/9310.png", "without it the step is finite"),),
    loss_terms=(LossTerm("loss_rot", NAN, True), LossTerm("loss_box", 0.4), LossTerm("loss_cls", -INF)),
    causes=CAUSES,
    remedies=REMEDIES,
    action="the update was withheld; parameters are as they were before the step",
    notes=("the sample was found by bisection",),
    experiments=EXPERIMENTS,
    look_back=LOOK_BACK,
    pictures=PICTURES,
)

ALMOST_NOTHING = Incident(
    Symptom("parameter", "fc.weight", "inf", step=0), ReplayResult(False, "none", "the loop is in an extension module")
)


def recording(*incidents: Incident, **changes: object) -> Recording:
    return replace(Recording("0.1.0", RUN, "non-finite", incidents), **changes)


HISTORY = {
    "loss": (2.0, 1.5, 1.2, NAN, 1.1, NAN),
    "grad_norm": (1.0, 10.0, 1e4, 1e9, INF, NAN),
    "lr": (0.001,) * 6,
}

HOSTILE_TEXTS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "[bold red]markup[/]",
    "\x1b[31mred\x1b[0m\x07\x9b2J",
    "a\nb\r\u2028c\u202eright to left",
    "lone \udcff surrogate",
)


def hostile(text: str) -> Recording:
    """A recording with the text wherever a user's world can put one."""
    source = SourceLine(text, 1, text, text)
    tensor = TensorSummary((2,), text, name=text, role="batch", n_nan=1)
    incident = Incident(
        symptom=Symptom("gradient", text, "nan", 3, detail=text),
        replay=ReplayResult(False, "re-yield", text, (text,)),
        origin=Op(text, text, "forward", source, text, inputs=(tensor,), output=tensor),
        path=(PathStep(text, "forward", source, text, "nan"),),
        samples=(Sample(1, 2, text, text),),
        loss_terms=(LossTerm(text, NAN),),
        causes=(CauseFound(text, 0.5, text, text, (text,)), CauseFound(text, 0.5, text, text, (text,))),
        remedies=(RemedyProposed(text, text, text, text, True, text), RemedyProposed(text, text, text, f"@@\n+{text}")),
        action=text,
        notes=(text,),
        experiments=(Experiment(text, "refuted", text, outcome=text),),
        look_back=LookBack((0, 1), (text,), ((1.0, 2.0),), terms={text: (1.0, 2.0), f"{text} too": (1.0, 2.0)}),
        pictures=(Picture("sample", text, 9, 9, png(), None, (Box((0, 0, 1, 1), "anomaly", text, text),), (text,)),),
    )
    run = replace(RUN, argv=(text,), versions={text: text}, device=text)
    return recording(
        incident, run=run, error=text, history={text.encode("ascii", "replace").decode().replace("/", "_"): (1.0, NAN)}
    )


VARIANTS = {
    "everything": recording(EVERYTHING, history=HISTORY),
    "almost-nothing": recording(ALMOST_NOTHING),
    "not-reproduced": recording(replace(EVERYTHING, replay=ReplayResult(False, "re-yield", "finite three times"))),
    "no-cause": recording(replace(EVERYTHING, causes=(), remedies=(), samples=())),
    "no-source": recording(
        replace(EVERYTHING, origin=replace(ORIGIN, source=SourceLine(None, None, None, None), phase="backward"))
    ),
    "diverging": recording(
        replace(ALMOST_NOTHING, symptom=Symptom("loss", "loss", "320000000.0", 40), replay=ReplayResult(True, "rerun")),
        outcome="diverging",
    ),
    "script-error": recording(outcome="script-error", error="Traceback ...\nValueError: no such file: x.txt"),
    "error-after-nan": recording(EVERYTHING, outcome="script-error", error="LinAlgError: SVD did not converge"),
    "healthy": recording(outcome="healthy", history={"loss": (2.0, 1.0)}),
    "healthy-with-skips": recording(outcome="healthy", skipped=(ALMOST_NOTHING,) * 8),
    "several": recording(*(replace(EVERYTHING, symptom=replace(SYMPTOM, step=step)) for step in range(7))),
    "validation": recording(replace(EVERYTHING, symptom=replace(SYMPTOM, stage="validation", name="loss_rot"))),
    "unicode": recording(
        replace(
            EVERYTHING,
            origin=replace(ORIGIN, source=SourceLine("训练/entraîner.py", 7, "perte_éé", "ž = λ.acos()  # 角度")),
            notes=("größer als erwartet ✓",),
        )
    ),
    "long-lines": recording(
        replace(
            EVERYTHING,
            origin=replace(
                ORIGIN, source=SourceLine("deep/" * 30 + "train.py", 12345, "f" * 90, "x = " + "g(y) + " * 200)
            ),
            causes=(replace(CAUSES[0], explanation="It is a long story. " * 60),),
            samples=tuple(Sample(n, n, None, "") for n in range(40)),
            remedies=REMEDIES * 5,
            loss_terms=tuple(LossTerm(f"term_{n}", NAN) for n in range(40)),
            notes=tuple(f"note {n}" for n in range(9)),
        )
    ),
}
