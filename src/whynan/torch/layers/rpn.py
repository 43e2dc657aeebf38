"""The head of a region proposal network."""

import math

from torch import Tensor, nn

from whynan.torch.layers.norm import ChannelLayerNorm


class RPNHead(nn.Module):
    """Head of a region proposal network with layer norm over channels, for feature maps of any size.

    As `torchvision.models.detection.rpn.RPNHead`, whose place it takes (`model.rpn.head = RPNHead(...)`). The norm
    keeps the logits
    in bounds whatever the backbone sends, the weights start small and objectness at a prior, so that the first steps
    do not overflow among thousands of negatives.

    Args:
        in_channels: channels of the feature maps.
        num_anchors: anchors at each place.
        conv_depth: convolutions before the two predictions.
        prior: the probability of an object that the head starts with, in (0, 1).
    """

    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1, prior: float = 0.01) -> None:
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"prior: must be in (0, 1), is {prior}")
        blocks = [
            nn.Sequential(nn.Conv2d(in_channels, in_channels, 3, padding=1), ChannelLayerNorm(in_channels), nn.ReLU())
            for _ in range(conv_depth)
        ]
        self.conv = nn.Sequential(*blocks)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - prior) / prior))

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness logits (N, A, H, W) and box deltas (N, 4 A, H, W) of each feature map (N, C, H, W)."""
        hidden = [self.conv(feature) for feature in features]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]
