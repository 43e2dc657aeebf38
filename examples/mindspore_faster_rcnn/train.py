"""Faster R-CNN in MindSpore learns to find discs and boards.

python train.py [--epochs N] [--clip none|value|norm]         trains
whynan run train.py --broken NAME                             fails, and is explained; names in broken.py
"""

import argparse

import broken
import mindspore as ms
import numpy as np
import stable
from boxes import assign
from mindspore import Tensor, nn, ops
from model import FasterRCNN
from scenes import Scenes

BATCH = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--broken", choices=["division", "preprocessing", "learning-rate", "clipping"])
    parser.add_argument("--clip", choices=["none", "value", "norm"], default="none", help="of the gradients")
    options = parser.parse_args()

    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(7)
    rng = np.random.default_rng(7)
    scenes = Scenes(blank=19 if options.broken == "preprocessing" else None)
    net = FasterRCNN(broken.DividesBySpread() if options.broken == "preprocessing" else None)
    net.set_train()
    rpn_terms = broken.relative_rpn_terms if options.broken == "division" else stable.rpn_terms
    by_hand = {"learning-rate": broken.squared_head_terms, "clipping": broken.steep_head_terms}
    head_terms = by_hand.get(options.broken, stable.head_terms)
    rate = 2.0 if options.broken == "learning-rate" else 0.02
    optimizer = nn.Momentum(net.trainable_params(), learning_rate=rate, momentum=0.9)

    def forward(pictures, boxes, labels):
        features, objectness, deltas = net(pictures)
        anchors = [assign(net.anchors, b, np.ones_like(c), 0.5, 0.3, rng, 48) for b, c in zip(boxes, labels)]
        rpn = rpn_terms(
            objectness.reshape(-1),
            deltas.reshape(-1, 4),
            Tensor(np.concatenate([found for found, _ in anchors])),
            Tensor(np.concatenate([offsets for _, offsets in anchors])),
        )
        rois = [np.concatenate([r, b]) for r, b in zip(net.propose(objectness, deltas), boxes)]
        regions = [assign(r, b, c, 0.5, 0.5, rng, 16) for r, b, c in zip(rois, boxes, labels)]
        logits, offsets = net.look(features, rois)
        head = head_terms(
            logits,
            offsets,
            Tensor(np.concatenate([found for found, _ in regions])),
            Tensor(np.concatenate([wanted for _, wanted in regions])),
        )
        loss_objectness, loss_rpn_box_reg = rpn["loss_objectness"], rpn["loss_rpn_box_reg"]
        loss_classifier, loss_box_reg = head["loss_classifier"], head["loss_box_reg"]
        loss = loss_objectness + loss_rpn_box_reg + loss_classifier + loss_box_reg
        return loss, loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg

    grad_fn = ms.value_and_grad(forward, None, optimizer.parameters, has_aux=True)
    for epoch in range(options.epochs):
        order = rng.permutation(len(scenes))
        for step in range(0, len(order), BATCH):
            pictures, boxes, labels = zip(*(scenes[i] for i in order[step : step + BATCH]))
            (loss, *terms), gradients = grad_fn(Tensor(np.stack(pictures)), boxes, labels)
            if options.clip == "value":
                gradients = ops.clip_by_value(gradients, Tensor(-0.5), Tensor(0.5))
            elif options.clip == "norm":
                gradients = ops.clip_by_global_norm(gradients, 5.0)
            optimizer(gradients)
            if step % (4 * BATCH) == 0:
                said = "  ".join(f"{float(term):.3f}" for term in terms)
                print(f"epoch {epoch} step {step // BATCH}  loss {float(loss):.3f}  rpn and head: {said}", flush=True)


if __name__ == "__main__":
    main()
