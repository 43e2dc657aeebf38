"""Which modules are rewritten, what is told about imports, and what the core leaves unimported."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from whynan.launch import host, imports


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    modules = set(sys.modules)
    host.install()
    finder = imports.install(str(tmp_path))
    yield tmp_path
    sys.meta_path.remove(finder)  # type: ignore[arg-type]
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(path: Path, text: str = "for i in range(2): print(i)\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_only_the_users_own_modules_are_rewritten(root: Path) -> None:
    finder = imports.UserFinder(str(root))
    write(root / "env" / "pyvenv.cfg")
    own = ["a.py", "b/c.py", "b/d/e.py", "whynan/x.py"]
    installed = ["env/x.py", "env/lib/x.py", "site-packages/x.py", "b/dist-packages/y/x.py"]
    assert [path for path in own + installed if finder.is_user_path(str(root / path))] == own
    assert not finder.is_user_path(str(root.parent / "x.py"))
    assert not finder.is_user_path(host.__file__)
    assert not imports.UserFinder("/").is_user_path(textwrap.__file__)
    assert not imports.UserFinder(str(Path(host.__file__).parents[3])).is_user_path(host.__file__)


def test_a_script_in_a_project_has_the_whole_project(tmp_path: Path) -> None:
    script = write(tmp_path / "project" / "scripts" / "train.py")
    assert imports.project_of(str(script.parent)) == str(script.parent)
    write(tmp_path / "project" / "pyproject.toml")
    finder = imports.UserFinder(str(script.parent))
    assert finder.is_user_path(str(tmp_path / "project" / "src" / "model.py"))
    assert not finder.is_user_path(str(tmp_path / "other" / "model.py"))


def test_a_module_is_rewritten_and_its_loader_is_left_as_it_was(root: Path) -> None:
    path = write(root / "own_module.py")
    module = __import__("own_module")
    assert [site.header_line for site in host.user_codes[str(path)]] == [1]
    assert set(vars(module.__loader__)) == {"name", "path"}


def test_a_callback_comes_after_the_whole_import(root: Path) -> None:
    told: list[tuple[str, int]] = []
    write(root / "told_module.py", "import told_helper\nvalue = 1\n")
    write(root / "told_helper.py", "import sys\nassert 'told_module' in sys.modules\n")
    imports.when_imported("told_module", lambda module: told.append((module.__name__, module.value)))
    assert not told
    module = __import__("told_module")
    assert told == [("told_module", 1)]
    assert type(module.__spec__).__name__ == "ModuleSpec"
    assert type(module.__spec__).__module__ == "_frozen_importlib"
    imports.when_imported("told_module", lambda module: told.append(("again", module.value)))
    assert told[1:] == [("again", 1)]


def test_a_callback_waits_for_an_import_that_works(root: Path) -> None:
    told: list[ModuleType] = []
    path = write(root / "failing_once.py", "raise ValueError\n")
    imports.when_imported("failing_once", told.append)
    with pytest.raises(ValueError):
        __import__("failing_once")
    assert not told
    write(path, "value = 22\n")
    __import__("failing_once")
    assert len(told) == 1


def test_a_failing_callback_is_told_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(host, "tell", lambda what, error: lines.append(f"{what}: {error!r}"))
    write(root / "unlucky_module.py")

    def fail(module: ModuleType) -> None:
        raise KeyError(module.__name__)

    imports.when_imported("unlucky_module", fail)
    __import__("unlucky_module")
    assert lines == ["watching unlucky_module failed: KeyError('unlucky_module')"]


def test_whynan_keeps_its_own_imports(tmp_path: Path) -> None:
    write(tmp_path / "random.py", "mine = True\n")
    write(
        tmp_path / "main.py",
        """
        import random, sys
        from whynan.launch.imports import own_imports
        assert random.mine
        with own_imports():
            import random as theirs
            assert theirs.Random
        import random as mine
        assert mine is random and sys.path[0] == sys.argv[1]
        print("done")
    """,
    )
    command = [sys.executable, "-m", "whynan", "run", "main.py", str(tmp_path)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "done\n"
