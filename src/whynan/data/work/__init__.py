"""Which work a unit of a data set needs, and the work on pictures, masks and arrays; `annotated` has that on boxes."""

import gc
import hashlib
import os
import warnings
from collections import Counter
from functools import partial
from typing import Any

from whynan.data.finding import look_at, report
from whynan.data.measure import ArrayMeasure
from whynan.data.readers import images, tables
from whynan.data.units import (
    ArrayLook,
    ImageLook,
    ImageRow,
    Item,
    Job,
    MaskLook,
    Outcome,
    Unit,
    as_findings,
    facts_of,
    of_os_error,
    pack,
    unpack,
)
from whynan.data.work.annotated import look_at_coco, look_at_voc, look_at_yolo


def look_at_arrays(job: Job, unit: Unit, outcome: Outcome) -> None:
    for item in unit.items:
        facts = _facts(job, item, "array", outcome, images.read_arrays)
        if facts is None:
            continue
        for key, what in facts["problems"]:
            name = item.name if key is None else f"{item.name}:{key}"
            outcome.findings.add([report("array-unreadable", name, what, f"cannot be read: {what}")])
        for measured in facts["arrays"]:
            measure = ArrayMeasure.from_facts(measured)
            name = item.name if measure.key is None else f"{item.name}:{measure.key}"
            look_at_measure(job, name, measure, outcome)
        _compare_lengths(item.name, facts["arrays"], outcome)


def look_at_csv(job: Job, unit: Unit, outcome: Outcome) -> None:
    _look_at_tables(job, unit, outcome, "csv", tables.read_csv)


def look_at_parquet(job: Job, unit: Unit, outcome: Outcome) -> None:
    _look_at_tables(job, unit, outcome, "parquet", tables.read_parquet)


def _look_at_tables(job: Job, unit: Unit, outcome: Outcome, kind: str, read: Any) -> None:
    for item in unit.items:
        facts = _facts(job, item, kind, outcome, read)
        if facts is None:
            continue
        outcome.findings.add(as_findings(item.name, facts["problems"]))
        for measured in facts["arrays"]:
            look_at_measure(job, item.name, ArrayMeasure.from_facts(measured), outcome)
        if facts["classes"]:
            outcome.statistics.arrays.append(
                {
                    "name": item.name,
                    "shape": [],
                    "dtype": "text",
                    "is_target": True,
                    "mean": None,
                    "std": None,
                    "names": None,
                }
                | {"square_mean": 0.0, "labels": facts["classes"]}
            )


def look_at_measure(job: Job, name: str, measure: ArrayMeasure, outcome: Outcome) -> None:
    if measure.note:
        outcome.findings.add([report("array-unreadable", name, measure.dtype, measure.note, severity="note")])
    outcome.findings.add(look_at("array", ArrayLook(name, measure, job.options.classes), job.options))
    has_labels = bool(measure.is_target and measure.labels and len(measure.labels) <= 1000)
    has_moments = measure.count is not None and not (measure.is_target and measure.labels)
    outcome.statistics.arrays.append(
        {
            "name": name,
            "shape": measure.shape if measure.names is None else [measure.n_rows, *measure.shape[1:]],
            "dtype": measure.dtype,
            "is_target": bool(measure.is_target),
            "mean": measure.mean.tolist() if has_moments else None,
            "std": measure.std.tolist() if has_moments else None,
            "names": measure.names,
            "square_mean": measure.square_mean,
            "labels": {str(label): n for label, n in sorted((measure.labels or {}).items())} if has_labels else {},
        }
    )


def _compare_lengths(file: str, measured: list[dict[str, Any]], outcome: Outcome) -> None:
    """Inputs and targets of one file, X and y, should have as many rows: X_train and y_train too."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in measured:
        split = str(each["name"]).partition("_")[2]
        groups.setdefault(split, []).append(each)
    for group in groups.values():
        targets = [each for each in group if each["is_target"] and each["shape"]]
        inputs = [each for each in group if not each["is_target"] and each["shape"] and len(each["shape"]) > 1]
        if len(targets) == 1 and len(inputs) == 1 and targets[0]["shape"][0] != inputs[0]["shape"][0]:
            x, y = inputs[0], targets[0]
            message = f"{x['name']} has {x['shape'][0]} rows, {y['name']} {y['shape'][0]}"
            outcome.findings.add(
                [report("size-mismatch", f"{file}:{y['name']}", f"{x['shape'][0]} and {y['shape'][0]}", message)]
            )


def _facts(job: Job, item: Item, kind: str, outcome: Outcome, read: Any) -> Any | None:
    if item.facts is not None:
        return unpack(item.facts)
    try:
        with job.storage.open(item.name) as file:
            facts = read(file, item.name)
    except OSError as error:
        outcome.findings.add(as_findings(item.name, [of_os_error("array-unreadable", error)]))
        return None
    outcome.n_read += 1
    outcome.fresh.append((kind, item.name, pack(facts)))
    return facts


def look_at_shards(job: Job, unit: Unit, outcome: Outcome) -> None:
    for item in unit.items:
        try:
            facts = unpack(item.facts) if item.facts is not None else _read_shard(job, item)
        except OSError as error:
            outcome.findings.add(as_findings(item.name, [of_os_error("shard-unreadable", error)]))
            continue
        if item.facts is None:
            outcome.n_read += 1
            outcome.fresh.append(("shard", item.name, pack(facts)))
        _look_at_shard(job, item, facts, outcome)


def _read_shard(job: Job, item: Item) -> list[tuple[str, str, Any]]:
    with job.storage.open(item.name) as file:
        return list(tables.read_shard(file, job.options.exact))


def _look_at_shard(job: Job, item: Item, facts: list[tuple[str, str, Any]], outcome: Outcome) -> None:
    labels: Counter[int] = Counter()
    kinds: Counter[tuple[str, ...]] = Counter()
    samples: list[tuple[str, tuple[str, ...]]] = []
    for kind, member, fact in facts:
        name = f"{item.name}:{member}" if member else item.name
        if kind == "image":
            outcome.statistics.add_image(fact)
            outcome.findings.add(look_at("image", ImageLook(name, fact), job.options))
            size = tuple(fact["size"]) if "size" in fact else None
            mode = None if fact.get("error") else fact["mode"]
            outcome.rows.append(ImageRow(name, size, mode, fact["bytes"], fact["crc"], item.split))
        elif kind == "label":
            labels[fact] += 1
            n = job.options.classes
            if fact < 0 or (n is not None and fact >= n):
                message = f"label {fact} is outside of 0..{n - 1 if n else ''}"
                outcome.findings.add([report("label-out-of-range", name, fact, message)])
        elif kind == "array":
            for measured in fact["arrays"]:
                look_at_measure(job, name, ArrayMeasure.from_facts(measured), outcome)
            for _, what in fact["problems"]:
                outcome.findings.add([report("array-unreadable", name, what, f"cannot be read: {what}")])
        elif kind == "problem":
            outcome.findings.add(as_findings(name, [fact]))
        else:
            sample = tuple(sorted(fact))
            kinds[sample] += 1
            samples.append((member, sample))
    _find_incomplete(item.name, samples, kinds, outcome)
    outcome.statistics.n_annotations += sum(labels.values())
    outcome.statistics.classes.update({str(label): n for label, n in sorted(labels.items())})
    outcome.statistics.counted_in = "images"
    outcome.counts.update(labels)
    outcome.statistics.n_files += 1


def _find_incomplete(
    shard: str, samples: list[tuple[str, tuple[str, ...]]], kinds: Counter[tuple[str, ...]], outcome: Outcome
) -> None:
    """Samples that lack a part which nearly all others have."""
    if not kinds:
        outcome.findings.add(
            [report("annotation-file-empty", shard, "0 samples", "the shard holds no sample", severity="error")]
        )
        return
    usual = kinds.most_common(1)[0][0]
    for key, parts in samples:
        missing = sorted(set(usual) - set(parts))
        if missing and not _is_same_kind(parts, usual):
            message = f"sample {key} has no {', '.join(missing)}, which the others have"
            is_image = any(part.rpartition(".")[2] in ("jpg", "jpeg", "png", "webp") for part in missing)
            slug = "image-missing" if is_image else "annotation-missing"
            outcome.findings.add([report(slug, f"{shard}:{key}", ", ".join(missing), message)])


def _is_same_kind(parts: tuple[str, ...], usual: tuple[str, ...]) -> bool:
    """A sample whose image has another extension (png among jpg) lacks nothing."""
    pictures = {"jpg", "jpeg", "png", "webp", "bmp", "gif"}
    return {"image" if p in pictures else p for p in parts} >= {"image" if p in pictures else p for p in usual}


def kind_of_images(exact: bool) -> str:
    """Return the name under which a cache keeps facts of images."""
    return "image-exact" if exact else "image"


def look(job: Job, unit: Unit, outcome: Outcome) -> None:
    kind = kind_of_images(job.options.exact)
    read = partial(images.read, exact=job.options.exact)
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image becomes a finding
    for item in unit.items:
        facts = facts_of(job, item, kind, outcome, read, "image-unreadable")
        if facts is None:
            outcome.rows.append(ImageRow(item.name, None, None, 0, 0, item.split))
            continue
        outcome.statistics.add_image(facts)
        outcome.findings.add(look_at("image", ImageLook(item.name, facts), job.options))
        is_good = not facts.get("error")
        size = tuple(facts["size"]) if "size" in facts else None
        outcome.rows.append(
            ImageRow(item.name, size, facts["mode"] if is_good else None, facts["bytes"], facts["crc"], item.split)
        )


def digest(job: Job, unit: Unit, outcome: Outcome) -> None:
    for item in unit.items:
        read = partial(lambda data: hashlib.blake2b(data, digest_size=16).hexdigest())
        facts = facts_of(job, item, "digest", outcome, read, "image-unreadable")
        if facts is not None:
            outcome.used.append(f"{facts} {item.name}")


def look_at_masks(job: Job, unit: Unit, outcome: Outcome) -> None:
    classes, ignored = unit.shared["classes"], unit.shared["ignore_index"]
    outcome.statistics.counted_in = "pixels"
    for item in unit.items:
        read = partial(images.read_mask, is_array=item.name.lower().endswith(".npy"))
        facts = facts_of(job, item, "mask", outcome, read, "mask-unreadable")
        if facts is None:
            continue
        look = MaskLook(item.name, facts, item.image, item.size, classes, ignored)
        outcome.findings.add(look_at("mask", look, job.options))
        outcome.statistics.n_annotations += 1
        values = {value: n for value, n in facts.get("values", {}).items() if value != ignored}
        outcome.counts.update(facts.get("values", {}))
        if item.split:
            outcome.splits.setdefault(item.split, type(outcome.counts)()).update(values)
        outcome.statistics.classes.update({(classes or {}).get(value, str(value)): n for value, n in values.items()})


def process(job: Job, unit: Unit) -> Outcome:
    outcome = Outcome(part=unit.part, worker=os.getpid())
    # Many small lists and hardly a cycle: the collector would go through all of them again and again for little. It is
    # not turned off: what cycles there are add up over a file of a million annotations.
    thresholds = gc.get_threshold()
    gc.set_threshold(20_000, 20, 20)
    try:
        _LOOKS[unit.kind](job, unit, outcome)
    finally:
        gc.set_threshold(*thresholds)
    outcome.n_done = len(unit.items)
    return outcome


_LOOKS = {
    "image": look,
    "digest": digest,
    "mask": look_at_masks,
    "yolo": look_at_yolo,
    "voc": look_at_voc,
    "coco": look_at_coco,
    "array": look_at_arrays,
    "csv": look_at_csv,
    "parquet": look_at_parquet,
    "shard": look_at_shards,
}
