"""A look at a whole data set: listed, recognised, images read, annotations held against them, the whole looked at."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from whynan.data.engine import LocalEngine, default_workers
from whynan.data.finding import EngineName, Findings, Options, look_at, need, report
from whynan.data.measure import Statistics
from whynan.data.parts import Heads, Part, Plan
from whynan.data.recognise import class_of, recognise
from whynan.data.result import Result
from whynan.data.storage import Cache, Storage, locate, place_of
from whynan.data.units import ImageRow, Item, Job, Outcome, Overview, PartView, Unit

IMAGES_A_UNIT = 32
LABELS_A_UNIT = 256
SMALL = 48
"""So few images are read in this process: starting others would take longer."""
SMALL_LABELS = 4000
REPAIRABLE = ("coco", "voc", "yolo")
_UNIT_OF = {"npz": "array", "csv": "csv", "parquet": "parquet", "webdataset": "shard", "masks": "mask"}


class Progress(Protocol):
    def stage(self, name: str, total: int) -> None: ...

    def advance(self, n: int) -> None: ...


class _Silent:
    def stage(self, name: str, total: int) -> None:
        pass

    def advance(self, n: int) -> None:
        pass


class Engine(Protocol):
    name: str
    n_workers: int

    def run(self, units: Iterable[Unit], is_small: bool = False) -> Iterator[Outcome]: ...

    def close(self, is_hurried: bool = False) -> None: ...


def scan(
    path: str,
    options: Options | None = None,
    *,
    engine: EngineName = "local",
    workers: int | None = None,
    is_cached: bool = True,
    progress: Progress | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Result:
    """Return what is found in the data set at `path`. Raises DataError or MissingExtraError where nothing can be said.

    Ctrl-C ends the look; what was found until then is returned, `is_interrupted` says so.
    """
    need("numpy", "data", "whynan data")
    started = time.perf_counter()
    storage, only = locate(path)
    look = _Look(path, storage, only, options or Options(), progress or _Silent(), engine, workers)
    try:
        look.prepare(is_cached)
        if on_plan is not None:
            on_plan(look.plan)
        look.run()
    except KeyboardInterrupt:
        if not look.is_prepared:
            raise
        look.result.is_interrupted = True
        look.close(is_hurried=True)
    finally:
        look.close()
    look.result.seconds = time.perf_counter() - started
    return look.result


class _Look:
    def __init__(
        self,
        path: str,
        storage: Storage,
        only: str | None,
        options: Options,
        progress: Progress,
        engine: EngineName,
        workers: int | None,
    ) -> None:
        self.storage = storage
        self.only = only
        self.options = options
        self.progress = progress
        self.engine_name = engine
        self.n_workers = workers or default_workers()
        self.engine: Engine | None = None
        self.cache = Cache(None, ())
        self.rows: list[ImageRow] = []
        self.is_prepared = False
        self.result = Result(path, "", engine, Findings(), Statistics(), is_exact=options.exact)

    def prepare(self, is_cached: bool) -> None:
        self.progress.stage("listing files", 0)
        listing = self.storage.list()
        self.cache = Cache(place_of(self.storage) if is_cached else None, listing.entries)
        self.plan = recognise(listing, self.only, self.options, Heads(self.storage, self.cache))
        self.result.format = self.plan.format
        self.result.n_files = len(listing.entries)
        self.result.n_image_files = len(self.plan.images)
        self.result.found.add(self.plan.findings)
        self.result.parts = [self._view(part) for part in self.plan.parts]
        self.result.annotation_files = [
            (part.format, name) for part in self.plan.parts if part.format in REPAIRABLE for name, _ in part.pairs
        ]
        self.is_prepared = True

    def _view(self, part: Part) -> PartView:
        return PartView(part.format, part.file, part.classes, ignore_index=part.ignore_index)

    def run(self) -> None:
        job = Job(self.storage, self.options, self.cache.is_open)
        if self.engine_name == "ray":
            from whynan.data.engine import RayEngine

            self.engine = RayEngine(job, self.n_workers)
        else:
            self.engine = LocalEngine(job, self.n_workers)
        self.present: dict[str, tuple[int, int] | None] = dict.fromkeys(self.plan.images)
        if self.options.pixels:
            self._read_images()
        self._read_annotations()
        self._look_at_whole()

    def close(self, is_hurried: bool = False) -> None:
        if self.engine is not None:
            self.engine.close(is_hurried)
            self.engine = None
        self.cache.close()

    # Images --------------------------------------------------------------------------------------------------------

    def _read_images(self) -> None:
        from whynan.data.work import kind_of_images

        names = self.plan.images
        if names:
            self.progress.stage("images", len(names))
            units = self._units("image", kind_of_images(self.options.exact), names, IMAGES_A_UNIT)
            self._merge_all(units, len(names) <= SMALL)
        self.rows.sort(key=lambda row: row.file)
        for row in self.rows:
            if row.file in self.present:
                self.present[row.file] = row.size

    def _units(self, kind: str, cached_as: str, names: list[str], n: int) -> Iterator[Unit]:
        for start in range(0, len(names), n):
            some = names[start : start + n]
            known = self.cache.get_many(cached_as, some)
            yield Unit(kind, tuple(Item(name, self.plan.split_of(name), facts=known.get(name)) for name in some))

    def _merge_all(self, units: Iterable[Unit], is_small: bool) -> None:
        assert self.engine is not None
        for outcome in self.engine.run(units, is_small):
            self._merge(outcome)
            self.progress.advance(outcome.n_done)

    def _merge(self, outcome: Outcome) -> None:
        result = self.result
        result.found.merge(outcome.findings)
        if outcome.part >= 0 and not self._is_leading(outcome.part):
            outcome.statistics.classes.clear()
        result.statistics.merge(outcome.statistics)
        result.n_read += outcome.n_read
        self.rows += outcome.rows
        self.cache.put_many(outcome.fresh)
        if outcome.part < 0:
            return
        view = result.parts[outcome.part]
        view.counts.update(outcome.counts)
        view.n_boxes += outcome.n_boxes
        view.n_odd_boxes += outcome.n_odd_boxes
        view.n_crowd += outcome.n_crowd
        view.declared = outcome.declared or view.declared
        for way, n in outcome.other_boxes.items():
            view.n_other_boxes[way] = view.n_other_boxes.get(way, 0) + n
        for split, counts in outcome.splits.items():
            view.classes_by_split.setdefault(split, Counter()).update(counts)

    def _is_leading(self, number: int) -> bool:
        """Classes are counted over the parts that are like the first one: train and val, but not boxes and masks."""
        first, part = self.plan.parts[0], self.plan.parts[number]
        return part.format == first.format and part.classes == first.classes

    # Annotations ---------------------------------------------------------------------------------------------------

    def _read_annotations(self) -> None:
        parts = [(number, part) for number, part in enumerate(self.plan.parts) if part.format != "folder"]
        n_files = sum(len(part.pairs) for _, part in parts)
        if parts:
            self.progress.stage("annotations", n_files)
        self.used: dict[int, list[str]] = {}
        for number, part in parts:
            self._read_part(number, part)
            if part.format in ("voc", "yolo") and not self.plan.images:
                message = f"there are no images beside the {len(part.pairs)} annotation files in {part.file}"
                self.result.found.add([report("images-not-here", part.file, len(part.pairs), message)])
            if part.format != "coco":
                self._find_uncovered(part, part.uncovered)
        self._find_uncovered_by_coco()
        for number, part in enumerate(self.plan.parts):
            if part.format == "folder":
                self._count_folders(number, part)

    def _read_part(self, number: int, part: Part) -> None:
        assert self.engine is not None
        is_single = part.format in ("coco", "npz", "csv", "parquet", "webdataset")
        n = 1 if is_single else IMAGES_A_UNIT if part.format == "masks" else LABELS_A_UNIT
        is_small = len(part.pairs) < (2 if is_single else SMALL if part.format == "masks" else SMALL_LABELS)
        for outcome in self.engine.run(self._part_units(number, part, n), is_small):
            if part.format == "coco":
                self.used.setdefault(number, []).extend(outcome.used)
            self._merge(outcome)
            self.progress.advance(outcome.n_done)

    def _part_units(self, number: int, part: Part, n: int) -> Iterator[Unit]:
        kind = _UNIT_OF.get(part.format, part.format)
        shared: dict[str, Any] = {
            "classes": part.classes,
            "keypoints": part.keypoints,
            "ignore_index": part.ignore_index,
            "image_folders": part.image_folders,
            "has_images": bool(self.plan.images),
        }
        if part.format == "coco":
            shared["present"] = self.present
        for start in range(0, len(part.pairs), n):
            some = part.pairs[start : start + n]
            known = self.cache.get_many(kind, [name for name, _ in some])
            items = tuple(
                Item(name, self.plan.split_of(name), image, self.present.get(image) if image else None, known.get(name))
                for name, image in some
            )
            yield Unit(kind, items, number, shared)

    def _find_uncovered(self, part: Part, names: Iterable[str]) -> None:
        what = {"yolo": "label file (.txt)", "voc": "annotation file (.xml)", "masks": "mask", "coco": "entry"}.get(
            part.format, "annotation"
        )
        place = f" in {part.file}" if part.file != "." else ""
        for name in names:
            finding = report("annotation-missing", name, f"no {what}", f"the image has no {what}{place}")
            self.result.found.add([finding])

    def _find_uncovered_by_coco(self) -> None:
        """Images beside those of a COCO file that no COCO file names."""
        used = {name for names in self.used.values() for name in names}
        folders = {name.rpartition("/")[0] for name in used}
        part = next((part for part in self.plan.parts if part.format == "coco"), None)
        if part is not None and self.only is None:
            part = Part("coco", part.file if len(self.used) == 1 else ".")
            missing = (n for n in self.plan.images if n not in used and n.rpartition("/")[0] in folders)
            self._find_uncovered(part, missing)

    def _count_folders(self, number: int, part: Part) -> None:
        """Classes of an image folder are those that the folders are called."""
        view = self.result.parts[number]
        if not part.classes:
            return
        index = {name: k for k, name in part.classes.items()}
        broken = {finding.file for finding in self.result.found if finding.check == "image-unreadable"}
        for name, _ in part.pairs:
            label = index.get(class_of(name) or "")
            if label is None or name in broken:
                continue
            view.counts[label] += 1
            split = self.plan.split_of(name)
            if split:
                view.classes_by_split.setdefault(split, Counter())[label] += 1
        self.result.statistics.classes.update({part.classes[label]: n for label, n in view.counts.items()})
        self.result.statistics.counted_in = "images"

    # The whole -----------------------------------------------------------------------------------------------------

    def _look_at_whole(self) -> None:
        self._gather_labels()
        overview = Overview(self.rows, self.result.parts, self._digests())
        self.result.found.add(look_at("set", overview, self.options))

    def _gather_labels(self) -> None:
        """Labels of arrays are those of one task where all arrays of labels have the same ones."""
        statistics = self.result.statistics
        labelled = [each["labels"] for each in statistics.arrays if each["labels"]]
        if labelled and all(labels.keys() == labelled[0].keys() for labels in labelled):
            for labels in labelled:
                statistics.classes.update(labels)
            statistics.counted_in = "rows"

    def _digests(self) -> dict[str, str]:
        """Hash those images whose size and checksum are those of others; all others are different for sure."""
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for row in self.rows:
            if row.n_bytes and ":" not in row.file:
                groups[row.n_bytes, row.crc].append(row.file)
        alike = [name for names in groups.values() if len(names) > 1 for name in names]
        digests: dict[str, str] = {}
        # In a shard size and checksum have to do: its members cannot be opened one by one.
        for (n, crc), names in self._shard_rows().items():
            digests.update(dict.fromkeys(names, f"{n}-{crc}"))
        if alike:
            assert self.engine is not None
            for outcome in self.engine.run(self._units("digest", "digest", alike, IMAGES_A_UNIT), is_small=True):
                self.result.n_read += outcome.n_read
                self.cache.put_many(outcome.fresh)
                digests.update((name, digest) for digest, name in (line.split(" ", 1) for line in outcome.used))
        return digests

    def _shard_rows(self) -> dict[tuple[int, int], list[str]]:
        groups: dict[tuple[int, int], list[str]] = defaultdict(list)
        for row in self.rows:
            if row.n_bytes and ":" in row.file:
                groups[row.n_bytes, row.crc].append(row.file)
        return {key: names for key, names in groups.items() if len(names) > 1}
