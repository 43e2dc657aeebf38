"""During a run the words of `whynan data` say which box of the guilty sample is at fault."""

from tests.conftest import Training

SCRIPT = """
    import torch
    from torch.utils.data import DataLoader, Dataset


    class Scans(Dataset):
        def __init__(self):
            self.samples = [(f"img_{k}.jpg", 0) for k in range(40)]

        def __len__(self):
            return 40

        def __getitem__(self, index):
            boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0], [2.0, 2.0, 8.0, 6.0], [3.0, 3.0, 12.0, 9.0]]) + index / 10
            if index == 21:
                boxes[2, 2] = boxes[2, 0]
            return torch.full((3, 8, 8), index / 40.0), {"boxes": boxes}


    def collate(batch):
        return tuple(zip(*batch))


    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 12))
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    for images, targets in DataLoader(Scans(), batch_size=4, shuffle=True, collate_fn=collate):
        predicted = model(torch.stack(images)).view(4, 3, 4)
        boxes = torch.stack([target["boxes"] for target in targets])
        sizes = (boxes[..., 2:] - boxes[..., :2]).log()
        loss = (predicted[..., 2:] - sizes).abs().mean()  # BAD
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


def test_sample_names_its_file_and_its_box(training: Training) -> None:
    incident = training(SCRIPT).incident
    assert incident["causes"][0]["slug"] == "degenerate-box"
    (sample,) = [sample for sample in incident["samples"] if sample["index"] == 21]
    assert sample["path"] == "img_21.jpg"
    assert "its third box has no width (x1=x2=5.1)" in sample["why"]
