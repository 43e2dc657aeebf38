"""Which work a unit of a data set needs, and the work on pictures and masks."""

import gc
import hashlib
import os
import warnings
from functools import partial

from whynan.data.finding import look_at
from whynan.data.looks import ImageLook, ImageRow, MaskLook
from whynan.data.readers import images, masks
from whynan.data.readers.problems import facts_of
from whynan.data.units import Job, Outcome, Unit
from whynan.data.work import annotated, arrays, coco

_PIECE = 1 << 20


def kind_of_images(exact: bool) -> str:
    """Return the name under which a cache keeps facts of images."""
    return "image-exact" if exact else "image"


def look(job: Job, unit: Unit, outcome: Outcome) -> None:
    """Decode images."""
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
    """Hash files whose size and checksum are those of others."""
    for item in unit.items:
        read = partial(lambda data: hashlib.blake2b(data, digest_size=16).hexdigest())
        facts = facts_of(job, item, "digest", outcome, read, "image-unreadable")
        if facts is not None:
            outcome.used.append(f"{facts} {item.name}")


def look_at_masks(job: Job, unit: Unit, outcome: Outcome) -> None:
    """Read masks and count their values."""
    classes, ignored = unit.shared["classes"], unit.shared["ignore_index"]
    outcome.statistics.counted_in = "pixels"
    for item in unit.items:
        read = partial(masks.read, is_array=item.name.lower().endswith(".npy"))
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
    """Read and check the files of a unit."""
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
    "yolo": annotated.look_at_yolo,
    "voc": annotated.look_at_voc,
    "coco": coco.look,
    "array": arrays.look_at_arrays,
    "csv": arrays.look_at_csv,
    "parquet": arrays.look_at_parquet,
    "shard": arrays.look_at_shards,
}
