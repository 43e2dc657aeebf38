"""What the script calls a number that it reads."""

import sys

import pytest
import torch

from whynan.adapters.torch.frames import name_of_tensor
from whynan.adapters.torch.looks import is_validation_loss, loss_in_comprehension, spoken
from whynan.launch import host


@pytest.fixture(autouse=True)
def this_file_is_the_users(monkeypatch):
    monkeypatch.setitem(host.user_codes, __file__, [])


def test_a_printed_tensor_is_found_by_its_memory():
    val_loss = torch.tensor(1.5)
    other = torch.tensor(1.5)
    frame = sys._getframe()
    first = name_of_tensor(val_loss.detach(), frame)
    second = name_of_tensor(other, frame)
    nameless = name_of_tensor(torch.tensor(1.5), frame)
    assert (first, second, nameless) == ("val_loss", "other", None)


def test_a_key_of_a_dictionary_is_a_name():
    metrics = {"eval_nll": torch.tensor(2.0)}
    found = name_of_tensor(metrics["eval_nll"].detach(), sys._getframe())
    assert found == "eval_nll"


def test_which_names_are_a_validation_loss():
    for name in ("val_loss", "loss_val", "valid_nll", "test_loss", "eval/loss", "dev_ppl"):
        assert is_validation_loss(name), name
    for name in ("loss", "value_loss", "interval_loss", "val_accuracy", "train_loss", "latest_loss"):
        assert not is_validation_loss(name), name


def test_a_loss_read_in_a_comprehension(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "valid = np.mean([\n    F.l1_loss(model(x), y).item() for x, y in loader])\n"
        "iou = [overlap(model(x), y).item() for x, y in loader]\n"
        "loss = F.l1_loss(model(x), y).item()\n"
    )
    found = [loss_in_comprehension(str(script), line) for line in (2, 3, 4, None)]
    assert found == ["l1_loss", None, None, None]


def test_the_exception_behind_an_exit_speaks():
    try:
        try:
            raise ValueError("All bounding boxes should have positive height and width.")
        except ValueError:
            sys.exit(1)
    except SystemExit as error:
        assert isinstance(spoken(error), ValueError)
    plain = SystemExit(1)
    assert spoken(plain) is plain
