"""Rewritten code does what the plain code does, and can do it again."""

import contextlib
import io
import sys
import textwrap
import timeit
import traceback
from collections.abc import Iterator
from types import CodeType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whynan.launch import host
from whynan.launch.plain import plain_code
from whynan.launch.rewrite import LoopSite, Rewritten, rewrite


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    host.install()
    yield
    host.install()


def compiled(source: str, filename: str = "user.py") -> Rewritten:
    data = textwrap.dedent(source).encode()
    rewritten = rewrite(data, filename)
    host.register(filename, rewritten.sites, rewritten.code, compile(data, filename, "exec", dont_inherit=True))
    return rewritten


def outcome(code: CodeType) -> str:
    """Return all that running `code` shows: its output, the traceback, the names it leaves."""
    namespace: dict[str, Any] = {"__name__": "user"}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(code, namespace)
        except BaseException as error:
            host.strip_frames(error)
            shown = error.__traceback__
            out.write("".join(traceback.format_exception(type(error), error, shown and shown.tb_next)))
    return out.getvalue() + repr(sorted(name for name in namespace if name != "__builtins__"))


# Random programs -------------------------------------------------------------------------------------------------

EXPRESSIONS = ["x % 3 == 1", "x > 4", "True", "bool(x & 1)", "any(k == x for k in range(3))"]
SIMPLE = [
    "print('at', x)",
    "x += 1",
    "out.append(x)",
    "1 / (x % 3)",
    "raise KeyError(x)",
    "x = next(it, 0)",
    "x = next(it)",
    "print((y := x + 1))",
    "del y",
    "pass",
]


@st.composite
def block(draw: st.DrawFn, depth: int, in_loop: bool, in_function: bool) -> str:
    return "\n".join(draw(st.lists(statement(depth, in_loop, in_function), min_size=1, max_size=3)))


@st.composite
def statement(draw: st.DrawFn, depth: int, in_loop: bool, in_function: bool) -> str:
    ends = (["break", "continue"] if in_loop else []) + (
        ["return x", "return", "return print(x)"] if in_function else []
    )
    simple = st.sampled_from(SIMPLE + ends * 2)
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(simple)

    def inner(loop: bool = in_loop) -> str:
        return textwrap.indent(draw(block(depth - 1, loop, in_function)), "    ")

    condition = draw(st.sampled_from(EXPRESSIONS))
    orelse = f"\nelse:\n{inner()}" if draw(st.booleans()) else ""
    match draw(st.sampled_from(["for", "while", "if", "except", "finally", "with", "match", "nested"])):
        case "for":
            return f"for x in closing(range({draw(st.integers(0, 3))})):\n{inner(True)}{orelse}"
        case "while":
            return f"while tick() and {condition}:\n{inner(True)}{orelse}"
        case "if":
            return f"if {condition}:\n{inner()}{orelse}"
        case "except":
            kind = draw(st.sampled_from([" KeyError as e", " (KeyError, ZeroDivisionError)", "", " Exception as e"]))
            return f"try:\n{inner()}\nexcept{kind}:\n{inner()}{orelse}"
        case "finally":
            return f"try:\n{inner()}\nfinally:\n{inner()}"
        case "with":
            return f"with manager({draw(st.booleans())}):\n{inner()}"
        case "match":
            return f"match x:\n    case 1 | 2:\n{textwrap.indent(inner(), '    ')}\n    case _:\n        pass"
        case _:
            body = textwrap.indent(draw(block(depth - 1, False, True)), "    ")
            return f"def nested(x=x, y=0, it=it):\n{body}\nprint(nested())"


PRELUDE = """\
import contextlib, sys
ticks = 0
out = []
def tick():
    global ticks
    ticks += 1
    if ticks > 40:
        raise SystemExit("enough")
    return True
def closing(items):
    try:
        yield from items
    finally:
        print("closed", sys.exc_info()[0])
@contextlib.contextmanager
def manager(swallow):
    try:
        yield
    except KeyError as e:
        print("exit", e)
        if not swallow:
            raise
def main(x):
    it = iter(range(5))
    y = 0
"""


@settings(max_examples=200, deadline=None)
@given(block(4, False, True))
def test_random_programs_do_what_plain_ones_do(body: str) -> None:
    source = PRELUDE + textwrap.indent(body, "    ") + "\nprint(main(1), main(4), out)\n"
    plain = compile(source, "user.py", "exec", dont_inherit=True)
    assert outcome(compiled(source).code) == outcome(plain), source


# What is known of a loop -----------------------------------------------------------------------------------------


def test_sites_know_names_and_lines() -> None:
    source = """
    import os
    class Trainer:
        def fit(self):
            global seen
            for i, (a, *b) in enumerate(
                self.data
            ):
                total += f(a)
                with open(a) as file, self.lock:
                    import numpy.linalg, json as j
                    self.x = [k for k in b if (hit := k)]
                def g():
                    global counted
                    local = 1
                class C: pass
                try:
                    del gone
                except OSError as error:
                    seen = 1
                match a:
                    case {"k": v, **rest}: pass
                    case [first, *others]: pass
            while self.more():
                print(1)
    """
    first, second = rewrite(
        textwrap.dedent(source).replace("nonlocal counted", "global counted").encode(), "t.py"
    ).sites
    assert (first.function, first.header_line, first.body_first_line, first.body_last_line) == ("Trainer.fit", 6, 9, 23)
    assert first.targets == {"i", "a", "b"}
    assigned = "total file numpy j hit g counted C gone error seen v rest first others"
    assert first.assigned == set(assigned.split(" "))
    assert (second.header_line, second.index, second.targets) == (24, first.index + 1, set())


@pytest.mark.parametrize(
    "loop",
    [
        "for i in x: y = i",
        "for i in x:\n    yield f(i)",
        "async def f():\n    for i in x: await g(i)",
        "async def f():\n    async for i in x: g(i)",
        "for i in x:\n    def f(): g()",
        "class C:\n    for i in x: g(i)",
    ],
)
def test_loops_left_alone(loop: str) -> None:
    inside = "def outer(x):\n" + textwrap.indent(loop, "    ")
    assert rewrite(inside.encode(), "t.py").sites == ()


def test_the_innermost_site_of_a_frame() -> None:
    source = """
    import sys
    def where():
        site = innermost(sys._getframe(1))
        found.append(site and site.header_line)
    def f():
        where()
        for i in range(1):
            where()
            while not where():
                [where() for _ in range(1)]; where()
                break
        else:
            where()
        return lambda: where()
    f()()
    """
    found: list[int | None] = []
    exec(compiled(source).code, {"innermost": host.innermost_site, "found": found})
    assert found == [None, 8, 8, None, 10, None, None]
    assert host.is_user_file("user.py")
    assert not host.is_user_file(__file__)


def test_plain_code_of_rewritten_functions() -> None:
    namespace: dict[str, Any] = {}
    exec(
        compiled("def f():\n    def g(): return [str(i) for i in range(3)]\n    for i in g(): print(i)\n").code,
        namespace,
    )
    code = namespace["f"].__code__
    assert "__whynan_leave__" not in plain_code(code).co_names
    assert any("__whynan" in name for name in code.co_names)
    assert not any("__whynan" in name for name in plain_code(code).co_names)
    assert plain_code(plain_code(code)) is plain_code(code)


# Replays ---------------------------------------------------------------------------------------------------------


class TwiceSite:
    """Runs the body of each iteration twice."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __iter__(self) -> Iterator[tuple[()]]:
        self.log.append("begin")
        yield ()
        self.log.append("again")
        yield ()


class LoggingHost(host.PlainHost):
    def __init__(self) -> None:
        self.log: list[str] = []

    def new_site(self, site: LoopSite) -> Any:
        return TwiceSite(self.log)


def test_a_site_runs_the_body_again() -> None:
    printed = "for x in 'ab':\n    print(x)\nelse:\n    print('else')\n"
    code = compiled(printed).code
    logging = LoggingHost()
    host.set_host(logging)
    assert outcome(code).startswith("a\na\nb\nb\nelse\n")
    assert logging.log == ["begin", "again"] * 2
    host.set_site(max(site.index for site in host.all_sites()), host.COLD)
    assert outcome(code).startswith("a\nb\nelse\n")


class ReplayHost(LoggingHost):
    """Turns the first way out of a body, whatever it is, into a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = True

    def failed(self, index: int) -> bool:
        replayed, self.pending = self.pending, False
        return replayed

    def leave(self, value: Any = None) -> Any:
        if self.pending:
            raise host.Unwind
        return value


@pytest.mark.parametrize("way_out", ["break", "return x", "return", "int('x')", "raise SystemExit"])
def test_each_way_out_comes_to_the_replay_first(way_out: str) -> None:
    source = f"""
    def f():
        for x in [1, 2]:
            print("body", x)
            try:
                {way_out}
            except Exception:
                {way_out}
    f()
    """
    code = compiled(source).code
    host.set_host(ReplayHost())
    assert outcome(code).count("body 1") == 2


def test_items_drawn_again() -> None:
    class Redrawing(host.PlainHost):
        def __init__(self) -> None:
            self.items: list[Any] = []

        def drawn(self, value: Any) -> Any:
            self.items.append(value)
            return value

        def redrawn(self) -> Any:
            return self.items[0]

    namespace: dict[str, Any] = {}
    exec(compiled("def draw(it):\n    return next(it)\n").code, namespace)
    it = iter("abc")
    host.set_host(Redrawing())
    assert namespace["draw"](it) == "a"
    host.set_replaying(True)
    assert namespace["draw"](it) == "a"
    host.set_replaying(False)
    assert namespace["draw"](it) == "b"


class BrokenHost(host.PlainHost):
    def new_site(self, site: LoopSite) -> Any:
        return self.broken_site()

    def broken_site(self) -> Iterator[tuple[()]]:
        yield ()
        raise ZeroDivisionError("in whynan")

    def failed(self, index: int) -> bool:
        raise ZeroDivisionError("failed")

    def leave(self, value: Any = None) -> Any:
        raise ZeroDivisionError("leave")

    def drawn(self, value: Any) -> Any:
        raise ZeroDivisionError("drawn")


def test_a_broken_host_leaves_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
    def f():
        for x in [1, 2]:
            print(x, next(iter("a")))
            if x == 2:
                return int("x")
    f()
    """
    plain = outcome(compile(textwrap.dedent(source), "user.py", "exec"))
    code = compiled(source).code
    told = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", told)
    host.set_host(BrokenHost())
    assert outcome(code) == plain
    lines = told.getvalue().splitlines()
    assert len(lines) == len(set(lines)) > 2
    assert all(line.startswith("whynan: ") and "ZeroDivisionError" in line for line in lines)


def test_a_cold_loop_costs_little() -> None:
    source = "def g(n, f=len, k=()):\n    for i in range(n):\n        f(k)\n"
    plain: dict[str, Any] = {}
    rewritten: dict[str, Any] = {}
    exec(compile(source, "user.py", "exec"), plain)
    exec(compiled(source).code, rewritten)
    n = 200_000

    def seconds(namespace: dict[str, Any]) -> float:
        return min(timeit.repeat(lambda: namespace["g"](n), number=1, repeat=7))

    # 0.04 microseconds where it was measured; the bound allows for a busy machine.
    assert (seconds(rewritten) - seconds(plain)) / n < 0.2e-6
