"""`whynan.data.check` on real pipelines of mindspore.dataset."""

from collections.abc import Callable
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest

from whynan.data import check

PIPELINES: dict[str, Callable[[Any], Any]] = {
    "rows": lambda data: data,
    "batches": lambda data: data.batch(8),
    "mapped": lambda data: data.map(lambda image: image * 2, ["image"]).batch(7),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_findings(name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 16, 16, 3)).astype(np.float32), rng.integers(0, 5, 40)
    x[7, 3, 3, 1] = np.nan
    y[9] = 12
    data = PIPELINES[name](ds.NumpySlicesDataset({"image": x, "label": y}, shuffle=False))
    result = check(data, classes=5)
    assert (result.format, result.statistics.n_images) == ("mindspore", 40)
    found = {(finding.check, finding.annotation) for finding in result.findings}
    assert found == {("value-nan", 7), ("label-out-of-range", 9)}
