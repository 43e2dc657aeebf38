"""Runs that really fail, one folder each, and what mends them: lines of `train.py`, and what stands in their place."""

MENDED: dict[str, dict[str, str]] = {
    "attention": {
        '''"""Grey values as they are in the files, 0 to 255."""''': (
            '''"""Grey values with a mean of about 0 and a deviation of about 1."""'''
        ),
        "torch.from_numpy(np.stack(images)).float(), ": "(torch.from_numpy(np.stack(images)).float() - 128) / 50, ",
    },
    "box-width": {
        "        return image, {": (
            "        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]\n        return image, {"
        ),
    },
    "coins": {"per_image = per_image / n_boxes\n": "per_image = per_image / n_boxes.clamp(min=1)\n"},
    "deeplab": {
        "losses = {name: F.cross_entropy(scores, masks, ignore_index=VOID) for name, scores in outputs.items()}": (
            "known = (masks != VOID).sum().clamp(min=1)\n"
            "    losses = {\n"
            '        name: F.cross_entropy(scores, masks, ignore_index=VOID, reduction="sum") / known\n'
            "        for name, scores in outputs.items()\n"
            "    }"
        ),
    },
    "keras": {
        "a cross entropy written by hand": "a cross entropy of logits",
        "from keras import layers, ops": "from keras import layers",
        "def pixel_cross_entropy(is_coin, p):\n"
        "    return -ops.mean(is_coin * ops.log(p) + (1 - is_coin) * ops.log(1 - p))\n\n\n": "",
        'layers.Conv2D(1, 1, activation="sigmoid")': "layers.Conv2D(1, 1)",
        "loss=pixel_cross_entropy": "loss=keras.losses.BinaryCrossentropy(from_logits=True)",
    },
    "learning-rate": {"lr=0.1": "lr=0.001"},
    "mindspore": {"(ops.square(distance) / (2 * distance)).sum()": "(distance / 2).sum()"},
    "numpy": {"np.exp(scores)": "np.exp(scores - scores.max(axis=1, keepdims=True))"},
    "rpn": {
        "    p = torch.sigmoid(objectness.flatten()[sampled])\n"
        "    is_object = labels[sampled]\n"
        "    log_loss = -(is_object * torch.log(p) + (1 - is_object) * torch.log(1 - p)).mean()\n": (
            "    log_loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], labels[sampled])\n"
        ),
    },
    "siamese": {"(a - b).pow(2).sum(dim=1).sqrt()": "((a - b).pow(2).sum(dim=1) + 1e-12).sqrt()"},
    "textures": {"lr=3.0": "lr=0.03"},
    "vae": {"    return table\n": "    return (table - table.median(dim=0).values).clamp(-10, 10)\n"},
}
