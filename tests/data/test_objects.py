"""`whynan.data.check` on what a model will really get: datasets, loaders, pipelines, arrays."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data import sets
from tests.data.conftest import told

from whynan.data import check
from whynan.data.finding import DataError


def arrays(n: int = 40) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 3, 16, 16)).astype(np.float32), rng.integers(0, 5, n)
    x[7, 1, 3, 3] = np.nan
    y[9] = 12
    return x, y


EXPECTED = {("value-nan", 7), ("label-out-of-range", 9)}


def places(result: Any) -> set[tuple[str, int | None]]:
    return {(finding.check, finding.annotation) for finding in result.findings}


class Batches:
    """What batched pipelines have in common: 8 samples at a time."""

    def __init__(self) -> None:
        self.x, self.y = arrays()

    def __len__(self) -> int:
        return 5

    def batch(self, k: int) -> tuple[Any, Any]:
        return self.x[8 * k : 8 * k + 8], self.y[8 * k : 8 * k + 8]


def test_path(tmp_path: Path) -> None:
    result = check(sets.write_voc(tmp_path / "set", sets.pictures()))
    assert result.is_clean and result.format == "voc"
    with pytest.raises(DataError):
        check(str(tmp_path / "absent"))


def test_arrays() -> None:
    x, y = arrays()
    for data in ((x, y), {"image": x, "label": y}):
        assert places(check(data, classes=5)) == EXPECTED
    assert places(check(x)) == {("value-nan", 7)}
    with pytest.raises(TypeError, match="40, 39"):
        check((x, y[:-1]))


def test_dataset_and_loader() -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    x, y = arrays()
    dataset = TensorDataset(torch.tensor(x), torch.tensor(y))
    result = check(dataset, classes=5)
    assert places(result) == EXPECTED
    assert result.format == "torch"
    for options in ({"shuffle": True}, {"shuffle": True, "num_workers": 1}, {"batch_size": None}):
        loader = DataLoader(dataset, **({"batch_size": 6} | options))
        assert places(check(loader, classes=5)) == EXPECTED


def test_index_and_file_of_a_detection_sample(tmp_path: Path) -> None:
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Scans(Dataset):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.samples = [(f"img_{k}.jpg", 0) for k in range(20)]

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise ValueError("no such scan")
            boxes = torch.tensor([[1.0, 1, 20, 20], [5, 5, 30, 30], [3, 3, 9, 9]])
            if index == 11:
                boxes[2, 2] = 3
            if index == 12:
                boxes[0] = torch.tensor([50.0, 50, 60, 60])
            return torch.rand(3, 32, 40), {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "image_id": index}

    loader = DataLoader(Scans(), batch_size=2, shuffle=True, collate_fn=lambda batch: tuple(zip(*batch)))
    for data, name in ((Scans(), "Scans"), (loader, "DataLoader(Scans)")):
        found = {finding.check: finding for finding in check(data, classes=4).findings}
        assert found["box-zero-size"].file == f"{name}[11].target.boxes"
        assert found["box-zero-size"].annotation == 2
        assert "img_11.jpg" in found["box-zero-size"].message
        assert found["box-outside-image"].file == f"{name}[12].target.boxes"
        assert "no such scan" in found["sample-unreadable"].message
    assert check(Scans(), limit=3).statistics.n_images == 3
    assert {f.check for f in check(Scans(), classes=3).findings} >= {"label-out-of-range"}


def test_what_transforms_make_of_images() -> None:
    rng = np.random.default_rng(0)
    good = [(rng.random((3, 16, 16)).astype(np.float32), k % 2) for k in range(10)]
    assert check(good).findings == []
    raw = [(image * 255, label) for image, label in good]
    (finding,) = check(raw).findings
    assert (finding.check, finding.severity) == ("value-extreme", "warning")
    grey = [*good, (rng.random((1, 16, 16)).astype(np.float32), 0)]
    assert ("image-mode-varies", 10) in places(check(grey))
    flat = [*good, (np.full((3, 16, 16), 0.5, np.float32), 0)]
    assert places(check(flat)) == {("sample-constant", 10)}


def test_masks() -> None:
    rng = np.random.default_rng(0)
    data = [(rng.random((3, 16, 20)), rng.integers(0, 3, (16, 20))) for _ in range(6)]
    data[2][1][3, 4] = 3
    data[4][1][:] = 255
    result = check(data, classes=3, ignore_index=255)
    assert told(result) == {
        ("mask-value-out-of-range", "list[2].target", None),
        ("mask-all-ignored", "list[4].target", None),
    }


def test_ignored_targets_are_a_note() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(20) % 3
    y[4] = -100
    (finding,) = check((rng.normal(size=(20, 4)), y), classes=3).findings
    assert (finding.check, finding.severity) == ("target-unlabelled", "note")


def test_boxes_by_corner_and_size() -> None:
    def sample(box: list[float]) -> Any:
        return np.random.rand(3, 100, 100), {"boxes": np.array([[50.0, 60, 10, 20], [70, 5, 9, 8], box])}

    data = [sample([30, 40, 20, 20]) for _ in range(5)] + [sample([30, 40, 0, 20])]
    assert [(f.check, f.value) for f in check(data).findings if f.severity == "error"] == [("box-zero-size", "w=0")]
    assert {f.check for f in check(data, box_format="xyxy").findings} >= {"box-negative-size"}


def test_iterables() -> None:
    x, y = arrays()

    def samples() -> Iterator[Any]:
        yield from zip(x, y)
        raise RuntimeError("the stream broke")

    assert places(check(samples(), classes=5)) == EXPECTED | {("sample-unreadable", 40)}
    with pytest.raises(TypeError, match="cannot take samples from int"):
        check(5)


def test_pipelines_by_what_they_can_do() -> None:
    """Stand-ins with the methods of tf.data, Keras and MindSpore: those frameworks are not asked for anything else."""

    class Spec:
        def __init__(self, *shape: int | None) -> None:
            self.shape = shape

    class TensorFlowDataset(Batches):
        element_spec = (Spec(None, 3, 16, 16), Spec(None))

        def as_numpy_iterator(self) -> Iterator[Any]:
            return (self.batch(k) for k in range(5))

    class Unbatched(TensorFlowDataset):
        element_spec = (Spec(3, 16, 16), Spec())

        def as_numpy_iterator(self) -> Iterator[Any]:
            return zip(self.x, self.y)

    class PyDataset(Batches):
        __module__ = "keras.src.trainers.data_adapters.py_dataset_adapter"

        def __getitem__(self, k: int) -> Any:
            return self.batch(k)

    class BatchDataset(Batches):
        def get_dataset_size(self) -> int:
            return 5

        def create_dict_iterator(self, num_epochs: int, output_numpy: bool) -> Iterator[Any]:
            return ({"image": self.batch(k)[0], "label": self.batch(k)[1]} for k in range(5))

    for data, kind in (
        (TensorFlowDataset(), "tensorflow"), (Unbatched(), "tensorflow"), (PyDataset(), "keras"),
        (BatchDataset(), "mindspore"),
    ):  # fmt: skip
        result = check(data, classes=5)
        assert places(result) == EXPECTED, kind
        assert result.format == kind


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, numpy as np\n"
        "from whynan.data import check\n"
        "check((np.zeros((9, 4)), np.arange(9)))\n"
        "names = {'torch', 'tensorflow', 'keras', 'jax', 'mindspore', 'ray', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(names) if names else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_result_is_json() -> None:
    content = check(arrays(), classes=5).to_json()
    assert json.loads(json.dumps(content, allow_nan=False))["engine"] == "python"


def test_images_that_are_not_here(tmp_path: Path) -> None:
    root = sets.write_coco(tmp_path, sets.pictures())
    for place in (root / "images").iterdir():
        place.unlink()
    result = check(root, cache=False)
    assert told(result) == {("images-not-here", "annotations.json", None)}
