"""A unit of work to the code of its kind."""

import gc
import os

from whynan.data.units import Job, Outcome, Unit
from whynan.data.work import annotated, arrays, coco, pictures


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
    "image": pictures.look,
    "digest": pictures.digest,
    "mask": pictures.look_at_masks,
    "yolo": annotated.look_at_yolo,
    "voc": annotated.look_at_voc,
    "coco": coco.look,
    "array": arrays.look_at_arrays,
    "csv": arrays.look_at_csv,
    "parquet": arrays.look_at_parquet,
    "shard": arrays.look_at_shards,
}
