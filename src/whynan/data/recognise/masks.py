"""Folders of masks: called like masks, and holding one file for each image."""

import re

from whynan.data.recognise.parts import Files, Heads, ImageIndex, Part, extension_of, stem_of, uncovered_images

_FOLDER = re.compile(
    r"(^|[_\-])(masks?|labels?|segs?|segmentations?|annotations?|anns?|gts?|ground_?truths?)([_\-\d]|$)"
    r"|^SegmentationClass|^gtFine|annot$|^seg|masks?$",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"([_\-.](masks?|seg|segmentation|label|labels|gt|annotation|gtFine_label(Train)?Ids|label(Train)?Ids|L|leftImg8bit))$",
    re.IGNORECASE,
)
_NO_MASK = re.compile(r"(_color|_colour|_instanceIds|_polygons|_instance)$", re.IGNORECASE)
_KINDS = {"png", "npy", "bmp", "tif", "tiff", "gif", "pgm"}
_INDEXED = {"L", "P", "1", "I", "I;16", "I;16B", "F"}
_PEEKED = 5


def find_masks(files: Files, heads: Heads, is_asked: bool) -> tuple[list[Part], set[str]]:
    """Return the parts that are masks, and all files that are no input images for that reason."""
    groups: dict[str, list[str]] = {}
    for name in files.having(*sorted(_KINDS)):
        root = _root(name)
        if root is not None and not _NO_MASK.search(stem_of(name)):
            groups.setdefault(root, []).append(name)
    groups = {root: _one_kind(names) for root, names in groups.items()}
    flat = {name for names in groups.values() for name in names}
    others = {name for name in files.having(*sorted(_KINDS)) if _root(name) is not None}
    images = [name for name in files.images if name not in flat and name not in others]
    if not groups and is_asked:
        groups, images = _beside(files)
    if not groups:
        return [], set()
    index = ImageIndex(images)
    by_bare = ImageIndex([_bare_path(name) for name in images])
    originals = {_bare_path(name): name for name in images}
    parts = []
    taken: set[str] = set()
    for root, names in sorted(groups.items()):
        pairs = []
        for name in names:
            found = index.find(name) or index.find(name, _bare(name))
            bare = None if found else by_bare.find(name, _bare(name))
            pairs.append((name, found or (originals[bare] if bare else None)))
        n_paired = sum(image is not None for _, image in pairs)
        if (n_paired * 3 >= len(pairs) and n_paired and _is_indexed(names, heads)) or (is_asked and images):
            uncovered, folders = uncovered_images(images, (image for _, image in pairs))
            parts.append(Part("masks", root or ".", pairs, image_folders=folders, uncovered=uncovered))
            taken |= set(names)
    # Colour versions and instance ids of the same folder are no inputs either.
    roots = {part.file for part in parts}
    taken |= {name for name in others if (_root(name) or ".") in roots}
    return parts, taken


def _root(name: str) -> str | None:
    steps = name.split("/")[:-1]
    for n in range(len(steps), 0, -1):
        if _FOLDER.search(steps[n - 1]):
            return "/".join(steps[:n])
    return None


def _one_kind(names: list[str]) -> list[str]:
    """Of several masks for one image (Cityscapes has label ids and train ids) keep those that training uses."""
    for ending in ("labelTrainIds", "labelIds"):
        kept = [name for name in names if stem_of(name).endswith(ending)]
        if kept:
            return kept
    return names


def _beside(files: Files) -> tuple[dict[str, list[str]], list[str]]:
    """Masks that lie beside their images, a.png and a_mask.png; only where the user says that there are masks."""
    masks = [name for name in files.having(*sorted(_KINDS)) if _SUFFIX.search(stem_of(name))]
    taken = set(masks)
    return ({"": masks} if masks else {}), [name for name in files.images if name not in taken]


def _bare(name: str) -> str:
    stem, before = stem_of(name), ""
    while stem != before:
        before, stem = stem, _SUFFIX.sub("", stem)
    return stem


def _bare_path(name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/{_bare(name)}.x" if folder else f"{_bare(name)}.x"


def _is_indexed(names: list[str], heads: Heads) -> bool:
    for name in names[:_PEEKED]:
        if extension_of(name) == "npy" or heads.image_mode(name) in _INDEXED:
            return True
    # Colours: masks all the same where the folder says so without doubt.
    return any(re.search(r"mask|SegmentationClass|annot$", step, re.IGNORECASE) for step in names[0].split("/")[:-1])
