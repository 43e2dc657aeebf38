"""The index of a row in the source of a `mindspore.dataset` pipeline: right, or not known."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.dataset import vision

from whynan.adapters.common.arrays import find_index, parts_of
from whynan.adapters.mindspore.pipeline import rows_in_order

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 4)).astype(np.float32), RNG.normal(size=(60, 1)).astype(np.float32)


class Rows:
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]

    def __len__(self) -> int:
        return len(X)


def rows(**options: Any) -> Any:
    return ds.GeneratorDataset(Rows(), ["x", "y"], **options)


def table(offset: float = 0, **options: Any) -> Any:
    return ds.NumpySlicesDataset({"x": X + offset, "y": Y + offset}, **options)


def column(name: str, values: Any, shuffle: bool) -> Any:
    return ds.NumpySlicesDataset({name: values}, shuffle=shuffle)


def doubled(row: Any) -> Any:
    return (row * 2).astype(np.float32)


def noisy(row: Any) -> Any:
    return (row + np.random.normal() + random.random()).astype(np.float32)


Made = Callable[[], Any]
FOUND: dict[str, tuple[Made, Any]] = {
    "sampler, workers, remainder": (
        lambda: rows(sampler=ds.RandomSampler(num_samples=50)).map(doubled, ["x"], num_parallel_workers=2)
        .batch(8, drop_remainder=True).repeat(2), X * 2),
    "subset": (lambda: rows(sampler=ds.SubsetRandomSampler(list(range(20, 60)))).batch(8), X),
    "shard": (lambda: rows(num_shards=2, shard_id=1, shuffle=True).batch(5), X),
    "filter": (lambda: table(shuffle=True).filter(lambda x: bool(x[0] > 0), ["x"]).batch(4), X),
    "skip, take": (lambda: table(shuffle=False).skip(13).take(30).shuffle(10).batch(4), X),
    "map after batch": (lambda: table(shuffle=True).batch(7, drop_remainder=True).map(doubled, ["x"]), X * 2),
    "concat": (
        lambda: (table(shuffle=True) + table(100, shuffle=True)).shuffle(9).batch(6), np.concatenate([X, X + 100])),
    "zip": (lambda: ds.zip((column("x", X, False), column("y", Y, False))).shuffle(20).batch(4), X),
}  # fmt: skip
UNKNOWN: dict[str, Made] = {
    "taken and joined": lambda: (table(shuffle=True).take(7) + table(100, shuffle=True)).batch(6),
    "sampled and joined": lambda: (rows(sampler=ds.RandomSampler(num_samples=7)) + table(100)).batch(6),
    "zipped at random": lambda: ds.zip((column("x", X, True), column("y", Y, True))).batch(4),
    "random": lambda: column("x", X, True).map(noisy, ["x"]).batch(4),
}


def indices(pipeline: Any) -> tuple[Any, list[int | None]]:
    """The first column of a batch, and the indices that are found for its rows."""
    batch = next(pipeline.create_tuple_iterator(num_epochs=1, output_numpy=True))
    found = rows_in_order(pipeline)
    parts = parts_of([(f"column {k}", values) for k, values in enumerate(batch)])
    return batch[0], [find_index(parts, k, [found] if found else []) for k in range(len(batch[0]))]


@pytest.mark.parametrize("name", FOUND)
def test_index_is_right(name: str) -> None:
    make, source = FOUND[name]
    batch, found = indices(make())
    np.testing.assert_allclose(source[found], batch, rtol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_index_is_not_known(name: str) -> None:
    drawn = np.random.get_state()[1].sum(), random.getstate()
    assert set(indices(UNKNOWN[name]())[1]) == {None}
    if name != "random":
        assert (np.random.get_state()[1].sum(), random.getstate()) == drawn


def test_rows_draw_nothing_of_the_runs() -> None:
    pipeline = UNKNOWN["random"]()
    random.seed(1)
    np.random.seed(1)
    assert rows_in_order(pipeline) is not None
    drawn = random.random(), np.random.normal()
    random.seed(1)
    np.random.seed(1)
    assert drawn == (random.random(), np.random.normal())


def test_images_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for k in range(10):
            Image.fromarray(RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(tmp_path / label / f"{k}.png")

    def images(shuffle: bool) -> Any:
        steps = [vision.Decode(), vision.Normalize([100.0] * 3, [50.0] * 3), vision.HWC2CHW()]
        return ds.ImageFolderDataset(str(tmp_path), shuffle=shuffle).map(steps, "image").batch(4)

    source = np.concatenate([batch[0] for batch in images(False).create_tuple_iterator(output_numpy=True)])
    batch, found = indices(images(True))
    np.testing.assert_array_equal(source[found], batch)


def test_a_source_that_is_spent_is_left_alone() -> None:
    class Once:
        def __init__(self) -> None:
            self.n = 0

        def __iter__(self) -> "Once":
            return self

        def __next__(self) -> Any:
            self.n += 1
            if self.n > 20:
                raise StopIteration
            return (X[self.n],)

    once = Once()
    pipeline = ds.GeneratorDataset(once, ["x"], shuffle=False).batch(4)
    next(iter(pipeline.create_tuple_iterator(num_epochs=1)))
    n = once.n
    assert rows_in_order(pipeline) is None
    assert once.n == n
