"""Parts of a data set: files, heads, splits, and the classes that its configuration files name."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from whynan.data.finding import Finding, need, report
from whynan.data.readers import images
from whynan.data.readers.images import EXTENSIONS
from whynan.data.storage import Cache, Entry, Storage
from whynan.data.units import of_os_error, pack, shown, unpack

LENGTH = 1 << 16
MOST_TEXT = 4 << 20
"""Bytes of a configuration that are read."""


_TOKENS = re.compile(r"[a-z]+")


class Heads:
    def __init__(self, storage: Storage, cache: Cache) -> None:
        self._storage = storage
        self._cache = cache

    def head(self, name: str) -> bytes:
        """Return the first bytes of a file, nothing where it cannot be read."""
        return bytes(self._kept("head", name, lambda: self._read(name, LENGTH)))

    def text(self, name: str) -> bytes:
        """Return a whole configuration file. Raises OSError."""
        known = self._cache.get("text", name)
        if known is not None:
            return bytes(unpack(known))
        data = self._read_or_raise(name, MOST_TEXT)
        self._cache.put("text", name, pack(data))
        return data

    def image_mode(self, name: str) -> str | None:
        """Return the mode of an image as its header says, None where there is none."""
        mode = self._kept("mode", name, lambda: self._mode(name))
        return str(mode) if mode is not None else None

    def _mode(self, name: str) -> str | None:
        try:
            with self._storage.open(name) as file, images.open_image(file) as image:
                return str(image.mode)
        except Exception:  # a broken header makes a decoder raise nearly anything; its own finding comes later
            return None

    def _kept(self, kind: str, name: str, read: Any) -> Any:
        known = self._cache.get(kind, name)
        if known is not None:
            return unpack(known)
        value = read()
        self._cache.put(kind, name, pack(value))
        return value

    def _read(self, name: str, length: int) -> bytes:
        try:
            return self._read_or_raise(name, length)
        except OSError:
            return b""

    def _read_or_raise(self, name: str, length: int) -> bytes:
        with self._storage.open(name) as file:
            return file.read(length)


_SPLIT = re.compile(r"^(train|training|val|valid|validation|test|testing|dev)(\d*|annot|[_\-].*)$", re.IGNORECASE)
_IN_STEM = re.compile(r"(?:^|[_\-])(train|val|valid|validation|test)(?:\d*)(?:$|[_\-.])", re.IGNORECASE)
_SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}


@dataclass
class Part:
    """One format in one place. `pairs` are (annotation file, image that belongs to it or None)."""

    format: str
    file: str
    """What findings about the whole part name: a file, or a folder ("." for the root)."""
    pairs: list[tuple[str, str | None]] = field(default_factory=list)
    classes: dict[int, str] | None = None
    keypoints: tuple[int, int] | None = None
    ignore_index: int | None = None
    image_folders: tuple[str, ...] = ()
    uncovered: list[str] = field(default_factory=list)
    """Images beside annotated ones that have no annotation."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split of a stem, where a list in the set tells it and not the folder."""


@dataclass
class Plan:
    parts: list[Part]
    images: list[str]
    findings: list[Finding] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)

    @property
    def format(self) -> str:
        return "+".join(dict.fromkeys(part.format for part in self.parts))

    def split_of(self, name: str) -> str | None:
        return self.splits.get(stem_of(name)) if self.splits else split_of(name)


def split_of(name: str) -> str | None:
    """Return train, val or test where a folder of the path is called like that, or the file itself is."""
    folder, _, last = name.rpartition("/")
    split = _split_of_folder(folder) if folder else None
    if split is None and last.endswith(_NAMED_AFTER_SPLIT):
        found = _IN_STEM.search(last.rpartition(".")[0])
        split = _SPLIT_NAMES.get(found[1].lower(), found[1].lower()) if found else None
    return split


_NAMED_AFTER_SPLIT = (".json", ".npz", ".npy", ".csv", ".parquet", ".tar")


@lru_cache(maxsize=4096)
def _split_of_folder(folder: str) -> str | None:
    for step in reversed(folder.split("/")):
        found = _SPLIT.match(step)
        if found:
            return _SPLIT_NAMES.get(found[1].lower(), found[1].lower())
    return None


def extension_of(name: str) -> str:
    _, dot, extension = name.rpartition(".")
    return extension.lower() if dot and "/" not in extension else ""


def stem_of(name: str) -> str:
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def is_image(name: str) -> bool:
    return extension_of(name) in EXTENSIONS


class Files:
    def __init__(self, entries: Iterable[Entry]) -> None:
        self.names = [entry.name for entry in entries]
        self.by_extension: dict[str, list[str]] = defaultdict(list)
        self.images: list[str] = []
        for name in self.names:
            extension = extension_of(name)
            self.by_extension[extension].append(name)
            if extension in EXTENSIONS:
                self.images.append(name)

    def having(self, *extensions: str) -> list[str]:
        return [name for extension in extensions for name in self.by_extension.get(extension, ())]

    def by_folder(self, names: Iterable[str]) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = defaultdict(list)
        for name in names:
            folders[folder_of(name)].append(name)
        return folders


class ImageIndex:
    """Images by their stem: which of them an annotation file of the same stem means."""

    def __init__(self, images: Sequence[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in images:
            self._by_stem[stem_of(name)].append(name)

    def find(self, annotation: str, stem: str | None = None) -> str | None:
        """Return the image of an annotation: of several with its stem the one whose path is most like its own."""
        found = self._by_stem.get(stem_of(annotation) if stem is None else stem)
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        return max(found, key=lambda image: _likeness(annotation, image))

    def folders(self) -> set[str]:
        return {folder_of(name) for names in self._by_stem.values() for name in names}


def _likeness(one: str, other: str) -> tuple[bool, int, int]:
    mine, theirs = one.split("/")[:-1], other.split("/")[:-1]
    same_split = split_of(one) == split_of(other)
    return same_split, len(set(mine) & set(theirs)), -abs(len(mine) - len(theirs))


def uncovered_images(images: Sequence[str], used: Iterable[str | None]) -> tuple[list[str], tuple[str, ...]]:
    """Return images that lie beside used ones and are not used, and the folders of the used ones."""
    taken = {name for name in used if name is not None}
    folders = {folder_of(name) for name in taken}
    return [name for name in images if name not in taken and folder_of(name) in folders], tuple(sorted(folders))


@dataclass
class Config:
    """What a configuration says. `names` are for boxes and polygons, `classes` for masks."""

    file: str
    names: dict[int, str] | None
    classes: dict[int, str] | None
    keypoints: tuple[int, int] | None
    ignore_index: int | None
    folders: list[str]


def read_configs(files: Files, heads: Heads, findings: list[Finding]) -> list[Config]:
    """Return all configurations of a set; those that cannot be read become findings."""
    found = []
    for name in files.having("yaml", "yml"):
        content = _load(name, heads, findings)
        if isinstance(content, dict) and {"names", "nc", "classes", "kpt_shape", "train"} & set(content):
            found.append(_config(name, content, findings))
    return found


def _load(name: str, heads: Heads, findings: list[Finding]) -> Any:
    yaml = need("yaml", "data", "reading data.yaml")
    try:
        data = heads.text(name)
        text = data.decode("utf-8-sig")
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        problem = of_os_error("config-unreadable", error)
        findings.append(report("config-unreadable", name, problem[2], problem[3]))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"line {line}: byte 0x{data[error.start]:02x} is not UTF-8"
        findings.append(report("config-unreadable", name, f"line {line}", message))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        what = shown(getattr(error, "problem", None) or error, 120)
        findings.append(report("config-unreadable", name, f"line {line}", f"line {line}: malformed YAML: {what}"))
    return None


def _config(name: str, content: dict[Any, Any], findings: list[Finding]) -> Config:
    names = _names(content.get("names"))
    count = content.get("nc")
    if isinstance(count, int) and names is None and 0 < count < 100_000:
        names = {k: str(k) for k in range(count)}
    if isinstance(count, int) and names is not None and count != len(names):
        message = f"nc is {count}, and names has {len(names)} classes"
        findings.append(report("config-unreadable", name, f"nc={count}", message))
    shape = content.get("kpt_shape")
    ignored = content.get("ignore_index", content.get("ignore_label"))
    is_shape: Any = (
        isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and 0 < n < 1000 for n in shape)
    )
    return Config(
        file=name,
        names=names,
        classes=_names(content.get("classes")),
        keypoints=(shape[0], shape[1]) if isinstance(shape, list) and is_shape and shape[1] in (2, 3) else None,
        ignore_index=ignored if isinstance(ignored, int) else None,
        folders=[value for key in ("train", "val", "test") if isinstance(value := content.get(key), str)],
    )


def _names(value: Any) -> dict[int, str] | None:
    if isinstance(value, list) and value:
        return {k: str(name) for k, name in enumerate(value)}
    if isinstance(value, dict) and value:
        try:
            return {int(k): str(name) for k, name in value.items()}
        except (TypeError, ValueError):
            return None
    return None


def names_file(files: Files, folder: str, heads: Heads) -> dict[int, str] | None:
    """Return the classes of a classes.txt, or of obj.names, in a folder or above it: one name a line."""
    places = [folder, folder_of(folder), ""]
    candidates = [
        name for name in files.having("txt", "names")
        if stem_of(name) in ("classes", "obj", "labels", "predefined_classes") and folder_of(name) in places
        and (name.endswith(".names") or stem_of(name) != "obj")
    ]  # fmt: skip
    for name in sorted(candidates, key=lambda each: places.index(folder_of(each))):
        lines = heads.head(name).decode("utf-8", "replace").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        # Numbers alone would be annotations that happen to be called so.
        if names and not all(re.fullmatch(r"[\d.\s+-]+", line) for line in names):
            return dict(enumerate(names))
    return None


def best_config(configs: Sequence[Config], place: str, labels: set[int], field: str) -> Config | None:
    """Return the configuration that a folder of labels goes with: of several the one that leaves the fewest of its
    labels undeclared, then the one whose name is most like the folder's, then the one with the fewest classes to
    spare."""
    fitting = [config for config in configs if getattr(config, field)]
    if len(fitting) < 2:
        return fitting[0] if fitting else None

    def misfit(config: Config) -> tuple[int, int, int]:
        declared = set(getattr(config, field))
        return len(labels - declared), -_affinity(config.file, place), len(declared - labels)

    return min(fitting, key=misfit)


def _affinity(one: str, other: str) -> int:
    """Count words of two paths that are the same, or begin with each other: det and detection."""
    mine, theirs = set(_TOKENS.findall(one.lower())), set(_TOKENS.findall(other.lower()))
    return sum(any(len(a) > 2 and len(b) > 2 and (a.startswith(b) or b.startswith(a)) for b in theirs) for a in mine)
