"""A divisor that is a count, and one that is none: only the first may be kept at 1 or more."""

import pytest

from whynan.adapters.common.dialect import changes_for

from .synthetic import evidence, tensor, zeros

SOURCE = "import numpy as np\nvalue = total / share\n"


@pytest.mark.parametrize(
    ("divisor", "is_count"), [(zeros(1, 3.0), True), (tensor(0.0, 0.0, ()), True), (zeros(1, 0.37), False)]
)
def test_what_is_kept_at_one(divisor, is_count, tmp_path):
    file = tmp_path / "train.py"
    file.write_text(SOURCE)
    found = changes_for("skip-empty", evidence("div", "forward", tensor(), divisor), str(file), 2)
    assert bool(found) is is_count
    assert all("np.maximum(share, 1" in change.new for change in found)


def test_a_sum_over_a_whole_number_that_is_no_tensor(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(SOURCE)
    assert changes_for("skip-empty", evidence("div", "forward", tensor(0.0, 0.37)), str(file), 2)
