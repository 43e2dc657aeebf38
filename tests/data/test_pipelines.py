"""`whynan.data.check` on the pipelines of the frameworks themselves.

Each framework runs in a process of its own: they do not like to share one, and this one shall stay without them.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

HEAD = """
import json
import numpy as np
from whynan.data import check

rng = np.random.default_rng(0)
x, y = rng.normal(size=(40, 16, 16, 3)).astype(np.float32), rng.integers(0, 5, 40)
x[7, 3, 3, 1] = np.nan
y[9] = 12
"""
TAIL = """
for data in made:
    result = check(data, classes=5)
    found = sorted((f.check, f.annotation) for f in result.findings)
    print(json.dumps([result.format, result.statistics.n_images, found]))
"""
MAKERS = {
    "tensorflow": """
import tensorflow as tf
rows = tf.data.Dataset.from_tensor_slices((x, y))
named = tf.data.Dataset.from_tensor_slices({"image": x, "label": y})
made = [rows, rows.batch(8), rows.batch(7).prefetch(2), rows.map(lambda a, b: (a * 2, b)).batch(16), named.batch(8)]
""",
    "keras": """
import keras

class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5
    def __getitem__(self, k):
        return x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8]

class Endless(Batches):
    num_batches = 5
    def __len__(self):
        raise TypeError("no length")

made = [Batches(), Batches(workers=2, use_multiprocessing=False), Endless()]
""",
}


@pytest.mark.parametrize("framework", sorted(MAKERS))
def test_findings_of_real_pipelines(framework: str) -> None:
    code = HEAD + MAKERS[framework] + TAIL
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    results: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) >= 3
    for result in results:
        assert result == [framework, 40, [["label-out-of-range", 9], ["value-nan", 7]]]
