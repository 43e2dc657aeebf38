"""What a report shows of the steps before, of the sample and of proposed boxes, held against what the script did."""

import pytest

DIVERGING = """
    import torch
    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    for step in range(200):
        fit = ((model(x) - y) ** 2).mean()
        size = 0.01 * sum((p ** 2).sum() for p in model.parameters())
        loss = fit + size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_layers_and_terms_of_the_steps_before(training):
    back = training(DIVERGING).incident["look_back"]
    assert back["layers"] == ["0", "2"]
    assert set(back["terms"]) == {"fit", "size"}
    n = len(back["steps"])
    assert back["steps"] == list(range(back["steps"][-1] - n + 1, back["steps"][-1] + 1))
    for table in (back["grad_norm"], back["update_ratio"], back["activation"], back["terms"].values()):
        assert all(len(row) == n for row in table)
    # Plain gradient descent: the update is the learning rate times the gradient.
    first = [float(row[0]) for row in back["grad_norm"]]
    assert all(norm > 0 for norm in first)
    assert float(back["terms"]["fit"][0]) < 10
    assert max(float(row[-3]) for row in back["grad_norm"]) > 1e3 * max(first)


def test_update_ratio_is_that_of_the_update(training):
    script = DIVERGING.replace("lr=8.0", "lr=0.5").replace(
        "loss = fit + size", "loss = fit + size if step < 6 else (fit + size) * torch.tensor(float('inf'))"
    )
    script += "    print(step)\n"
    incident = training(script).incident
    back = incident["look_back"]
    assert incident["step"] == 6
    expected = plain_ratios(6)
    for row, wanted in zip(back["update_ratio"], expected):
        for value, ratio in zip(row, wanted):
            assert value == pytest.approx(ratio, rel=1e-3)


def test_a_run_that_goes_on_shows_what_watching_has_read(training):
    script = DIVERGING.replace("lr=8.0", "lr=0.5").replace(
        "loss = fit + size", "loss = fit + size if step != 6 else (fit + size) * torch.tensor(float('inf'))"
    )
    back = training(script, "--policy", "recover").incident["look_back"]
    assert back["note"].endswith("the run may go on.")
    assert "activation" not in back["note"]
    assert back["steps"] == list(range(7))
    assert back["activation"] == []
    for rows, wanted in ((back["update_ratio"], plain_ratios(2, "weight")), (back["grad_norm"], plain_norms(6))):
        for row, values in zip(rows, wanted):
            assert row[: len(values)] == pytest.approx(values, rel=1e-3)
    assert [row[-1] for row in back["grad_norm"]] == [None, None]
    fit = [value for value in back["terms"]["fit"] if value is not None]
    assert len(fit) > 2 and fit[-1] < fit[0]


def plain_norms(n):
    """The norm of each layer's gradient in the same training without whynan."""
    return plain_ratios(n, lambda layer, old, new: 2.0 * (new - old).norm())


def plain_ratios(n, of=""):
    """The same training without whynan: norm of each layer's update over that of its weights."""
    import torch

    parts = (lambda layer: [layer.weight]) if of == "weight" else lambda layer: layer.parameters()

    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    ratios = [[], []]
    for _ in range(n):
        loss = ((model(x) - y) ** 2).mean() + 0.01 * sum((p**2).sum() for p in model.parameters())
        optimizer.zero_grad()
        loss.backward()
        before = [torch.cat([p.detach().flatten() for p in parts(layer)]) for layer in (model[0], model[2])]
        optimizer.step()
        for ratio, old, layer in zip(ratios, before, (model[0], model[2])):
            new = torch.cat([p.detach().flatten() for p in parts(layer)])
            ratio.append(float(of(layer, old, new) if callable(of) else (new - old).norm() / old.norm()))
    return ratios


DETECTOR = """
    import torch
    from torch import nn
    torch.manual_seed(0)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([4.0, 4.0, 20.0, 20.0]))
        def forward(self, images):
            return [torch.stack([self.bias, self.bias + 5 + image.mean()]) for image in images]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Head()
        def forward(self, images):
            return self.head(images)

    class Scenes(torch.utils.data.Dataset):
        def __len__(self):
            return 12
        def __getitem__(self, k):
            width = 0.0 if k == 7 else 10.0
            boxes = torch.tensor([[3.0, 3.0, 3.0 + width, 13.0], [8.0, 8.0, 20.0, 22.0]])
            return torch.rand(3, 32, 24), {"boxes": boxes, "labels": torch.tensor([1, 2])}

    def collate(batch):
        images, targets = zip(*batch)
        return torch.stack(images), list(targets)

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for images, targets in torch.utils.data.DataLoader(Scenes(), batch_size=2, collate_fn=collate):
        proposed = model(images)
        loss = 0.0
        for boxes, target in zip(proposed, targets):
            size = target["boxes"][:, 2:] - target["boxes"][:, :2]
            loss = loss + ((boxes[:, 2:] - boxes[:, :2]) / size - 1).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_sample_has_its_boxes_and_what_is_wrong_with_one(training):
    run = training(DETECTOR)
    (picture,) = run.incident["pictures"]
    assert picture["what"] == "sample"
    assert picture["title"].startswith("dataset index 7")
    assert (picture["width"], picture["height"]) == (24, 32)
    assert [box["kind"] for box in picture["boxes"]] == ["anomaly", "target"]
    assert picture["boxes"][0]["note"] == "no width: 0 x 10"
    assert picture["boxes"][1]["label"] == "class 2"
    assert picture["boxes"][1]["box"] == [8.0, 8.0, 20.0, 22.0]
    assert (run.place / "whynan-out" / picture["file"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["head", "Head"])
def test_boxes_of_a_module_that_is_named(training, name):
    incident = training(DETECTOR, "--boxes", name).incident
    proposed = [picture for picture in incident["pictures"] if picture["what"] == "proposals"]
    assert [picture["step"] for picture in proposed] == [incident["step"], 0, 1]
    assert [box["kind"] for box in proposed[1]["boxes"]] == ["proposal", "proposal"]
    assert proposed[1]["boxes"][0]["box"] == [4.0, 4.0, 20.0, 20.0]


SEGMENTATION = """
    import torch
    import torch.nn.functional as F
    torch.manual_seed(0)
    images = torch.rand(12, 3, 16, 16)
    masks = torch.randint(0, 3, (12, 16, 16))
    masks[9] = 255
    data = torch.utils.data.TensorDataset(images, masks)
    model = torch.nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for image, mask in torch.utils.data.DataLoader(data, batch_size=1):
        loss = F.cross_entropy(model(image), mask, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_sample_has_its_mask(training):
    run = training(SEGMENTATION)
    (picture,) = run.incident["pictures"]
    assert "mask: class 255 in 100% of the pixels" in picture["facts"]
    assert (run.place / "whynan-out" / picture["overlay"]).exists()


def test_the_first_steps_are_looked_at_and_then_no_more(training):
    script = DETECTOR.replace("k == 7", "False").replace(
        "    proposed = model(images)",
        "    proposed = model(images)\n        seen.append(len(torch.nn.modules.module._global_forward_hooks))",
    )
    script = script.replace("    model = Model()", "    seen = []\n    model = Model()") + "\n    print(seen)\n"
    plain = training(script, plain=True)
    watched = training(script, "--boxes", "head")
    unwatched = training(script)
    assert plain.stdout == unwatched.stdout == "[0, 0, 0, 0, 0, 0]\n"
    assert watched.stdout == "[1, 1, 0, 0, 0, 0]\n"
