"""Which formats a listing holds, in the order in which they claim files. Nothing but beginnings of files is read."""

import re
from collections import defaultdict
from collections.abc import Callable

from whynan.data.finding import DataError, Finding, Options
from whynan.data.parts import (
    Config,
    Files,
    Heads,
    ImageIndex,
    Part,
    Plan,
    best_config,
    extension_of,
    folder_of,
    is_image,
    names_file,
    read_configs,
    split_of,
    stem_of,
    uncovered_images,
)
from whynan.data.storage import Listing

_MASK_FOLDER = re.compile(
    r"(^|[_\-])(masks?|labels?|segs?|segmentations?|annotations?|anns?|gts?|ground_?truths?)([_\-\d]|$)"
    r"|^SegmentationClass|^gtFine|annot$|^seg|masks?$",
    re.IGNORECASE,
)
_MASK_SUFFIX = re.compile(
    r"([_\-.](masks?|seg|segmentation|label|labels|gt|annotation|gtFine_label(Train)?Ids|label(Train)?Ids|L|leftImg8bit))$",
    re.IGNORECASE,
)
_NO_MASK = re.compile(r"(_color|_colour|_instanceIds|_polygons|_instance)$", re.IGNORECASE)
_MASK_KINDS = {"png", "npy", "bmp", "tif", "tiff", "gif", "pgm"}
_INDEXED = {"L", "P", "1", "I", "I;16", "I;16B", "F"}
_MASKS_PEEKED = 5

_PEEKED = 20
"""Files of a folder that are opened to tell its format."""
_COCO = re.compile(rb'"(annotations|images|categories|image_id|file_name)"\s*:')
_COCO_NAME = re.compile(r"annotation|instances|coco|person_keypoints", re.IGNORECASE)
_YOLO_LINE = re.compile(rb"^\s*-?\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?|\s+[-+]?(nan|inf)){2,}\s*$", re.IGNORECASE)
_NO_LABELS = {
    "classes",
    "train",
    "val",
    "test",
    "trainval",
    "readme",
    "requirements",
    "license",
    "licence",
    "labels",
    "obj",
}
_LABELS = re.compile(r"^labels?([_\-\d]|$)|[_\-]labels?$", re.IGNORECASE)
_VOC_LISTS = {"train": "train", "val": "val", "test": "test"}


def find_masks(files: Files, heads: Heads, is_asked: bool) -> tuple[list[Part], set[str]]:
    """Return the parts that are masks, and all files that are no input images for that reason."""
    groups: dict[str, list[str]] = {}
    for name in files.having(*sorted(_MASK_KINDS)):
        root = _root(name)
        if root is not None and not _NO_MASK.search(stem_of(name)):
            groups.setdefault(root, []).append(name)
    groups = {root: _one_kind(names) for root, names in groups.items()}
    flat = {name for names in groups.values() for name in names}
    others = {name for name in files.having(*sorted(_MASK_KINDS)) if _root(name) is not None}
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
        if _MASK_FOLDER.search(steps[n - 1]):
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
    masks = [name for name in files.having(*sorted(_MASK_KINDS)) if _MASK_SUFFIX.search(stem_of(name))]
    taken = set(masks)
    return ({"": masks} if masks else {}), [name for name in files.images if name not in taken]


def _bare(name: str) -> str:
    stem, before = stem_of(name), ""
    while stem != before:
        before, stem = stem, _MASK_SUFFIX.sub("", stem)
    return stem


def _bare_path(name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{folder}/{_bare(name)}.x" if folder else f"{_bare(name)}.x"


def _is_indexed(names: list[str], heads: Heads) -> bool:
    for name in names[:_MASKS_PEEKED]:
        if extension_of(name) == "npy" or heads.image_mode(name) in _INDEXED:
            return True
    # Colours: masks all the same where the folder says so without doubt.
    return any(re.search(r"mask|SegmentationClass|annot$", step, re.IGNORECASE) for step in names[0].split("/")[:-1])


def recognise(listing: Listing, only: str | None, options: Options, heads: Heads) -> Plan:
    """Return what there is to look at. `only` is the one file that the user named, if it was a file.

    Raises DataError where nothing is found, or nothing of the format that the user asked for.
    """
    files = Files(listing.entries)
    findings = list(listing.findings)
    if only is not None:
        files = _with_one(files, only)
    finder = _Finder(files, options, heads, findings)
    parts = finder.find()
    if not parts:
        raise DataError(_nothing(files, options))
    claimed = {name for part in parts if part.format == "masks" for name, _ in part.pairs} | finder.not_images
    images = [name for name in files.images if name not in claimed]
    splits = {stem: split for part in parts for stem, split in part.splits.items()}
    return Plan(parts, images, findings, splits)


def _with_one(files: Files, only: str) -> Files:
    kept = Files(())
    extension = extension_of(only)
    speaks_of_images = extension in ("json", "yaml", "yml", "xml", "txt")
    if extension in ("yaml", "yml"):
        # A configuration stands for the whole set around it.
        names = [name for name in files.names if extension_of(name) not in ("yaml", "yml") or name == only]
    else:
        names = [name for name in files.names if name == only or (speaks_of_images and is_image(name))]
    kept.names = names
    for name in names:
        kept.by_extension[extension_of(name)].append(name)
    kept.images = [name for name in names if is_image(name)]
    return kept


def _nothing(files: Files, options: Options) -> str:
    kinds = ", ".join(
        f"{len(names)} .{extension}" if extension else f"{len(names)} without extension"
        for extension, names in sorted(files.by_extension.items(), key=lambda pair: -len(pair[1]))[:6]
        if names
    )
    here = f"there are {kinds} files" if kinds else "there are no files"
    if options.format == "auto":
        known = "COCO, VOC, YOLO, masks, image folders, .npy/.npz, .csv, .parquet or tar shards"
        return f"no data set was recognised: {here}, and none of them are {known}; --format names one"
    return f"nothing of format {options.format} was found: {here}"


class _Finder:
    def __init__(self, files: Files, options: Options, heads: Heads, findings: list[Finding]) -> None:
        self.files = files
        self.options = options
        self.heads = heads
        self.findings = findings
        self.index = ImageIndex(files.images)
        self.not_images: set[str] = set()

    def find(self) -> list[Part]:
        wanted = self.options.format
        annotated: dict[str, Callable[[bool], list[Part]]] = {
            "coco": self.coco, "voc": self.voc, "yolo": self.yolo, "masks": self.masks,
        }  # fmt: skip
        others: dict[str, Callable[[bool], list[Part]]] = {
            "webdataset": self.shards, "npz": self.arrays, "csv": self.csv, "parquet": self.parquet,
        }  # fmt: skip
        if wanted in annotated:
            return annotated[wanted](True)
        if wanted in others:
            return others[wanted](True)
        if wanted == "folder":
            return self.folder(True)
        parts = [part for find in annotated.values() for part in find(False)]
        parts = parts or [part for find in others.values() for part in find(False)]
        if parts and parts[0].format in others and self.files.images and self._is_classified():
            parts = self.folder(False) + parts
        return parts or self.folder(False)

    # Annotation files of images ------------------------------------------------------------------------------------

    def coco(self, is_asked: bool) -> list[Part]:
        found = []
        for name in self.files.having("json"):
            head = self.heads.head(name)
            is_coco = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and _COCO.search(head)
            by_name = _COCO_NAME.search(name) and self.files.images
            if is_asked or is_coco or by_name:
                found.append(name)
        if not found:
            return []
        # All files of one folder of annotations share its images: train and val in one folder, say.
        return [Part("coco", name, [(name, None)]) for name in found]

    def voc(self, is_asked: bool) -> list[Part]:
        parts = []
        for folder, names in sorted(self.files.by_folder(self.files.having("xml")).items()):
            heads = (self.heads.head(name) for name in names[:_PEEKED])
            if is_asked or any(b"<annotation" in head for head in heads):
                parts.append(self._voc_part(folder, names))
        return parts

    def _voc_part(self, folder: str, names: list[str]) -> Part:
        above = folder_of(folder)
        part = self._part("voc", folder, names)
        if not part.image_folders:
            part.image_folders = tuple(
                name for name in sorted(self.index.folders()) if name in (folder, above) or folder_of(name) == above
            )
        lists = f"{above}/ImageSets/Main/" if above else "ImageSets/Main/"
        for name in self.files.having("txt"):
            split = _VOC_LISTS.get(stem_of(name))
            if split and name.startswith(lists) and "/" not in name[len(lists) :]:
                self._read_list(part, name, split, {stem_of(each) for each in names})
        return part

    def _read_list(self, part: Part, name: str, split: str, known: set[str]) -> None:
        from whynan.data.finding import report

        try:
            lines = self.heads.text(name).decode("utf-8", "replace").splitlines()
        except OSError:
            return
        for number, line in enumerate(lines):
            stem = line.split()[0] if line.split() else ""
            if not stem:
                continue
            if stem not in known:
                message = f"line {number + 1}: {stem} is in the list, and has no annotation file"
                self.findings.append(report("annotation-missing", name, stem, message, number, "error"))
            part.splits.setdefault(stem, split)

    def yolo(self, is_asked: bool) -> list[Part]:
        texts = [name for name in self.files.having("txt") if stem_of(name).lower() not in _NO_LABELS]
        texts = [name for name in texts if "ImageSets" not in name.split("/")]
        groups: dict[str, list[str]] = defaultdict(list)
        for folder, names in self.files.by_folder(texts).items():
            if is_asked or self._is_yolo(folder, names):
                groups[_label_root(folder)] += names
        configs = read_configs(self.files, self.heads, self.findings) if groups or is_asked else []
        return [self._yolo_part(root, sorted(names), configs) for root, names in sorted(groups.items())]

    def _is_yolo(self, folder: str, names: list[str]) -> bool:
        is_labels = any(_LABELS.search(step) for step in folder.split("/"))
        if not is_labels and not any(self.index.find(name) for name in names[:_PEEKED]):
            return False
        heads = [self.heads.head(name) for name in names[:_PEEKED]]
        lines = [head.split(b"\n", 1)[0] for head in heads if head.strip()]
        if not lines:
            return is_labels and any(self.index.find(name) for name in names[:_PEEKED])
        return sum(_YOLO_LINE.match(line) is not None for line in lines) * 2 >= len(lines)

    def _yolo_part(self, root: str, names: list[str], configs: list[Config]) -> Part:
        part = self._part("yolo", root, names)
        chosen = best_config(configs, root, self._labels(names) if len(configs) > 1 else set(), "names")
        if self.options.names:
            part.classes = dict(enumerate(self.options.names))
        elif self.options.classes is not None:
            part.classes = {k: str(k) for k in range(self.options.classes)}
        elif chosen is not None:
            part.classes = chosen.names
        else:
            part.classes = names_file(self.files, (names and folder_of(names[0])) or root, self.heads)
        if chosen is not None:
            part.keypoints = chosen.keypoints
            self._check_folders(chosen)
        return part

    def _labels(self, names: list[str]) -> set[int]:
        found: set[int] = set()
        step = max(1, len(names) // 200)
        for name in names[::step]:
            for line in self.heads.head(name).splitlines():
                first = line.split(None, 1)[:1]
                if first and first[0].isdigit():
                    found.add(int(first[0][:9]))
        return found

    def _check_folders(self, chosen: Config) -> None:
        from whynan.data.finding import report

        folders = {folder_of(name) for name in self.files.names}
        ancestors = {"/".join(folder.split("/")[:n]) for folder in folders for n in range(1, folder.count("/") + 2)}
        for value in chosen.folders:
            last = value.replace("\\", "/").rstrip("/")
            steps = [step for step in last.split("/") if step not in ("", ".", "..")]
            is_there = any("/".join(steps[n:]) in ancestors for n in range(len(steps))) or value.endswith(".txt")
            if steps and not is_there:
                message = f"names the folder {value}, which is not in this set"
                finding = report("config-path-missing", chosen.file, value, message)
                if finding not in self.findings:
                    self.findings.append(finding)

    def masks(self, is_asked: bool) -> list[Part]:
        parts, taken = find_masks(self.files, self.heads, is_asked)
        if not parts:
            return []
        self.not_images |= taken
        configs = read_configs(self.files, self.heads, [])
        for part in parts:
            chosen = best_config(configs, part.file, set(), "classes")
            if self.options.names:
                part.classes = dict(enumerate(self.options.names))
            elif self.options.classes is not None:
                part.classes = {k: str(k) for k in range(self.options.classes)}
            elif chosen is not None:
                part.classes = chosen.classes
            part.ignore_index = self.options.ignore_index
            if part.ignore_index is None and chosen is not None:
                part.ignore_index = chosen.ignore_index
        return parts

    def _part(self, format_: str, place: str, names: list[str]) -> Part:
        pairs = [(name, self.index.find(name)) for name in names]
        uncovered, folders = uncovered_images(self.files.images, (image for _, image in pairs))
        return Part(format_, place or ".", pairs, image_folders=folders, uncovered=uncovered)

    # Classification, arrays, tables --------------------------------------------------------------------------------

    def _is_classified(self) -> bool:
        return len({folder_of(name) for name in self.files.images} - {""}) >= 2

    def folder(self, is_asked: bool) -> list[Part]:
        """A folder for each class. With one folder alone there are images, and no classes."""
        if not self.files.images:
            return []
        part = Part("folder", ".", [(name, name) for name in self.files.images])
        labelled = [class_of(name) for name in self.files.images]
        names = sorted({label for label in labelled if label})
        if len(names) >= 2 or (is_asked and names):
            part.classes = dict(enumerate(names))
        return [part]

    def arrays(self, is_asked: bool) -> list[Part]:
        return self._flat("npz", self.files.having("npz", "npy"))

    def csv(self, is_asked: bool) -> list[Part]:
        return self._flat("csv", self.files.having("csv", "tsv"))

    def parquet(self, is_asked: bool) -> list[Part]:
        return self._flat("parquet", self.files.having("parquet", "pq"))

    def shards(self, is_asked: bool) -> list[Part]:
        return self._flat("webdataset", self.files.having("tar"))

    def _flat(self, format_: str, names: list[str]) -> list[Part]:
        return [Part(format_, ".", [(name, None) for name in names])] if names else []


def class_of(name: str) -> str | None:
    """Return the folder that gives an image its class: the one it lies in, unless that is a split."""
    last = folder_of(name).rpartition("/")[2]
    return None if not last or (split_of(f"{last}/x") and "/" not in folder_of(name)) else last


def _label_root(folder: str) -> str:
    """Return the folder of labels that train and val lie in: labels of labels/train."""
    steps = folder.split("/")
    for n, step in enumerate(steps):
        if _LABELS.search(step):
            return "/".join(steps[: n + 1])
    return folder
