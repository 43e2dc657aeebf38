"""data.yaml and its relatives: class names of YOLO sets and masks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whynan.data.extra import need
from whynan.data.finding import Finding, report
from whynan.data.readers.problems import of_os_error, shown
from whynan.data.recognise.parts import Files, Heads, folder_of, stem_of

_TOKENS = re.compile(r"[a-z]+")


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
