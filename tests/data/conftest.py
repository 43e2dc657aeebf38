"""Fixtures for data sets: a cache of each test's own, and a look that is told in short."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whynan.data.finding import Options
from whynan.data.result import Result
from whynan.data.scan import scan


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("WHYNAN_CACHE", str(place))
    yield place


def look(path: Path | str, **options: Any) -> Result:
    """Look at a set in this process, without a cache."""
    return scan(str(path), Options(**options), workers=1, is_cached=False)


def told(result: Result, severity: str | None = None) -> set[tuple[str, str, int | None]]:
    """(check, file, annotation) of the findings."""
    return {(f.check, f.file, f.annotation) for f in result.findings if severity in (None, f.severity)}


def checks(result: Result, severity: str | None = None) -> set[str]:
    return {f.check for f in result.findings if severity in (None, f.severity)}
