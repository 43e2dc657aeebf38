"""A program behaves under whynan as under plain python: output, status, files, processes, frames, references."""

import signal
from typing import Any

import pytest


def nested_loops(depth: int) -> str:
    loops = "".join("    " * level + f"for i{level} in [str({level})]:\n" for level in range(depth))
    return loops + "    " * depth + "print(i3)\n"


PROGRAMS = {
    "namespace": """
        import sys
        print(dict(globals()), sys.argv, sys.path[0] == sys.path[0], sys.orig_argv[1:])
        print(sys.modules["__main__"].__dict__ is globals(), __name__, __debug__)
        print([name for name in dir(__builtins__) if "site" in name and "whynan" not in name])
    """,
    "nested control flow": """
        def f(n):
            for i in range(n):
                try:
                    for j in range(5):
                        if str(j) == "3":
                            break
                        if str(j + i) == "1":
                            continue
                        with open(__file__) as file:
                            while True:
                                if len(str(i)) > 1:
                                    return i, j, file.closed
                                if int("1"):
                                    break
                                print("never")
                            else:
                                print("not here")
                        print(i, j)
                    else:
                        print("else", i)
                finally:
                    print("finally", i)
            else:
                print("outer else")
        print(f(3), f(20))
        n = 3
        while n := n - 1:
            print(n)
        else:
            print("while else")
    """,
    "names": """
        count = 0
        def outer():
            total = 0
            def add(x):
                nonlocal total
                global count
                for i in range(x):
                    total += int(i)
                    count += 1
            for a, (b, *c) in [(1, "xyz"), (2, "pq")]:
                add(a)
                print(a, b, c, sorted(locals()))
            del a, b
            for fn in [lambda k=k: next(iter([k])) for k in range(3)]:
                print(fn(), [y := fn() for _ in range(2)], y)
            return total
        print(outer(), count)
        class C:
            for name in ["p", "q"]:
                locals()[name] = str(name)
            try:
                int("x")
            except ValueError:
                r = 1
        print(C.p, C.q, C.r, outer.__code__.co_varnames, outer.__qualname__)
        for self_x in [1]:
            print(sorted(k for k in globals() if not k.startswith("__")))
            exec("for i in range(2): print(i); z = i")
            print(z, eval("z + 1"))
        try:
            def g():
                for i in []:
                    print(i)
                print(i)
            g()
        except UnboundLocalError as e:
            print(e)
    """,
    "match and decorators": """
        import functools
        def twice(f):
            @functools.wraps(f)
            def inner(*args):
                return f(*args), f(*args)
            return inner
        def walk(items):
            for item in items:
                match item:
                    case {"a": a, **rest}:
                        print("mapping", a, rest)
                    case [x, *others]:
                        print("sequence", x, others)
                        continue
                    case int() as n if n > 3:
                        print("big", n)
                        break
                    case _:
                        print("other", item)
                @twice
                def f(k):
                    return k, item
                print(f(1), f.__qualname__, f.__code__.co_firstlineno)
        walk([{"a": 1, "b": 2}, [1, 2, 3], 2, 7, 8])
    """,
    "recursion": """
        import sys
        def depth(tree, level=0):
            for child in tree:
                yield level
                yield from depth(child, level + 1)
        def count(tree):
            n = 1
            for child in tree:
                n += count(child)
            return n
        print(list(depth([[], [[]]])), count([[], [[]]]))
        def deep(n):
            for _ in range(1):
                return deep(n + 1)
        try:
            deep(0)
        except RecursionError as e:
            print(e)
    """,
    "traceback": """
        def inner(x):
            for i in range(3):
                y = 1 + (x / (i - 1))
                print(y)
        def outer():
            try:
                while True:
                    inner("ab" and 3)
            except ZeroDivisionError as e:
                raise ValueError("wrapped") from e
        for k in range(1):
            try:
                outer()
            except ValueError as error:
                import traceback
                print(traceback.format_exc())
                print([f.name for f in traceback.extract_tb(error.__traceback__)])
                raise RuntimeError(f"{len(str(k))}")
    """,
    "sys.exit text": "import sys\nfor i in range(3):\n    print(i)\n    sys.exit('no more')\n",
    "sys.exit in finally": """
        import sys
        for i in range(3):
            try:
                raise ValueError(str(i))
            finally:
                sys.exit(7)
    """,
    "sys.exit none": "import sys\nprint('x')\nsys.exit()\n",
    "bare raise": """
        for i in range(2):
            try:
                int("x")
            except ValueError:
                print("caught")
                raise
    """,
    "exception group": """
        for i in range(2):
            try:
                raise ExceptionGroup("g", [ValueError(str(i)), TypeError("t")])
            except* ValueError as group:
                print(group.exceptions)
    """,
    "os._exit": "import os, sys\nfor i in range(3):\n    print(i, flush=True)\n    os._exit(5)\n",
    "stdout replaced": """
        import io, sys
        sys.stdout = io.StringIO()
        for i in range(3):
            print(i)
        sys.stderr.write(repr(sys.stdout.getvalue()))
        sys.stdout = sys.__stdout__
        print(sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.line_buffering)
    """,
    "fork": """
        import os, sys
        for i in range(2):
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                print("child", i)
                sys.exit(i)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
    "excepthook": """
        import sys, traceback
        def hook(kind, error, tb):
            print("hook", kind, error, traceback.format_tb(tb), error.__traceback__ is tb, sys.last_value is error)
        sys.excepthook = hook
        for i in range(2):
            {}[str(i)]
    """,
    "unraisable and threads": """
        import threading, sys
        class D:
            def __del__(self):
                for i in range(1):
                    raise ValueError(str(i))
        for i in range(1):
            D()
        def work():
            for i in range(1):
                int("thread")
        t = threading.Thread(target=work, name="worker")
        t.start()
        t.join()
    """,
    "atexit and thread at end": """
        import atexit, threading, time
        atexit.register(lambda: print("atexit", __name__))
        def work():
            for i in range(3):
                time.sleep(0.05)
                print("thread", i)
        threading.Thread(target=work).start()
        print("main ends")
    """,
    "references": """
        import weakref, gc, sys
        gc.disable()
        class Thing: pass
        def items():
            for _ in range(2):
                thing = Thing()
                yield thing
                del thing
        class Iterator:
            def __iter__(self): return self
            def __init__(self): self.n = 0
            def __next__(self):
                self.n += 1
                frame = sys._getframe(1)
                print("asked by", frame.f_code.co_name, frame.f_lineno)
                if self.n > 2: raise StopIteration
                return self.n
        def main():
            for thing in items():
                ref = weakref.ref(thing)
                print(sys.getrefcount(thing))
                del thing
                print(ref() is None)
            for n in Iterator():
                print(n)
            def closing():
                try:
                    yield 1
                    yield 2
                finally:
                    print("closed")
            for x in closing():
                print(x)
                break
            print("after break")
            try:
                for x in closing():
                    raise KeyError(str(x))
            except KeyError:
                print("caught")
            print("after raise")
            def early():
                for x in closing():
                    return str(x)
            print(early())
            for i in range(1):
                try:
                    thing = Thing()
                    ref = weakref.ref(thing)
                    raise ValueError(str(thing is None))
                except ValueError as e:
                    pass
                del thing
                print(ref() is None)
        main()
    """,
    "numpy resize": """
        import numpy
        def f():
            a = numpy.zeros(3)
            for i in range(3):
                a.resize(4 + i)
            print(a.shape)
        f()
    """,
    "warnings": """
        import warnings
        def old():
            warnings.warn("old", DeprecationWarning, stacklevel=2)
        def f():
            for i in range(3):
                old()
                warnings.warn(f"here {i}")
        f()
        for i in range(2):
            old()
        x = "\\d"
        if x is "d":
            print()
    """,
    "warnings from beyond": """
        import warnings
        for level in range(1, 5):
            warnings.warn(f"level {level}", stacklevel=level)
    """,
    "logging": """
        import logging
        logging.basicConfig(format="%(filename)s:%(lineno)d %(funcName)s %(message)s", level=0)
        def f():
            for i in range(2):
                logging.info("step %d", i)
                try:
                    int("x")
                except ValueError:
                    logging.exception("oh")
        f()
    """,
    "argparse": """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float)
        for group in range(1):
            parser.parse_args(["--lr", "x"])
    """,
    "inspect": """
        import inspect, sys
        def f(x):
            # a comment
            for i in range(x):
                print(i)
        class C:
            def m(self): return 1
        print(inspect.getsource(f), inspect.getsource(C), inspect.getsourcefile(f) == __file__)
        for i in range(1):
            print(inspect.currentframe().f_lineno, inspect.getframeinfo(inspect.currentframe()).code_context)
        print(__loader__.get_data(__file__) == open(__file__, "rb").read(), __loader__.get_source("__main__")[:6])
    """,
    "future and annotations": """
        '''Docstring.'''
        from __future__ import annotations
        x: undefined = 3
        def f(a: nothing) -> nowhere:
            for i in range(1):
                y: also = str(i)
            return y
        print(f.__annotations__, __annotations__, __doc__, f(1))
    """,
    "own next": """
        def next(x, *rest):
            return "mine", x
        for i in range(2):
            print(next(i))
    """,
    "iterator protocol": """
        def f():
            it = iter([1, 2, 3])
            while True:
                try:
                    x = next(it)
                except StopIteration:
                    break
                print(x, next(iter([]), "default"))
            return next(iter("ab"))
        print(f())
        async def a():
            for i in range(2):
                print("async", i)
            async for j in gen():
                print(j)
            for k in range(2):
                await asyncio.sleep(0)
                print([v async for v in gen()])
        async def gen():
            for i in range(2):
                yield i
        import asyncio
        asyncio.run(a())
    """,
    "syntax error": "x = 1\nfor i in range(3):\n    print(i\ny = 2\n",
    "compiler error": "def f():\n    pass\nreturn 3\n",
    "many blocks": nested_loops(18),
    "too many blocks": nested_loops(21),
    "closed stdin and broken pipe": """
        import os, sys
        r, w = os.pipe()
        os.close(r)
        for i in range(3):
            os.write(w, b"x")
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_is_like_python(name: str, like_python: Any) -> None:
    like_python({"main.py": PROGRAMS[name]})


def test_the_comparison_can_fail(like_python: Any) -> None:
    with pytest.raises(AssertionError):
        like_python({"main.py": "import sys; print('click' in sys.modules)"})


def test_encoding_is_respected(like_python: Any) -> None:
    source = "# -*- coding: latin-1 -*-\nfor c in 'é':\n    print(len(c), ascii(c), __file__[-7:])\n"
    like_python({"main.py": source.encode("latin-1")})
    like_python({"main.py": b"\xef\xbb\xbf" + b"for c in 'a':\n    print(c)\n"})
    like_python({"main.py": b"for c in 'a':\r\n    print(c)\r\n    raise ValueError\r\n"})


PACKAGE: dict[str, str | bytes] = {
    "pkg/__init__.py": "print('init', __name__, __file__[-16:], __cached__[-30:])\n",
    "pkg/__main__.py": """
        import sys
        from . import helper
        from .sub import deep
        if __name__ == "__main__":
            print(sys.argv[1:], sys.argv[0][-16:], __spec__.name, __package__)
            for i in range(2):
                print(helper.work(i), deep.x)
            helper.work("bad")
    """,
    "pkg/helper.py": """
        import inspect
        def work(x):
            for i in range(2):
                y = 10 / x
            return inspect.getsource(work)
    """,
    "pkg/sub/deep.py": "x = __name__, __spec__.parent, type(__loader__).__name__, sorted(vars(__loader__))\n",
    "mod.py": "import sys\nprint(__name__, sys.argv)\nfor i in range(2):\n    print(i)\nraise SystemExit(4)\n",
}


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "pkg", "--out", "x", "-m"),
        ("-m", "mod", "-x"),
        ("pkg",),
        ("-m", "missing"),
        ("-m", "pkg.helper"),
        ("pkg/helper.py",),
    ],
)
def test_module_or_directory_is_like_python(program: tuple[str, ...], like_python: Any) -> None:
    like_python(PACKAGE, *program)


IMPORTS = {
    "main.py": """
        import importlib, sys, pickle
        import config
        from package import part
        from package.part import Thing
        import space.inside
        print(config.value, part.f(), space.inside.__file__[-15:], space.__path__)
        importlib.reload(config)
        print(pickle.dumps(Thing()), config.__spec__.has_location, part.__loader__.get_data(part.__file__)[:9])
        print(type(config.__loader__), vars(config.__loader__).keys(), config.__cached__[-25:])
        for i in range(2):
            try:
                import broken
            except SyntaxError as e:
                print(e, e.lineno)
            try:
                import does_not_exist
            except ImportError as e:
                import traceback
                traceback.print_exc()
            try:
                import random
                print(random.mine)
                import failing
            except Exception:
                traceback.print_exc()
        import broken
    """,
    "config.py": "for i in range(3):\n    value = str(i)\nprint('config', __name__)\n",
    "package/__init__.py": "",
    "package/part.py": """
        from . import other
        class Thing: pass
        def f():
            for i in range(3):
                if str(i) == "1":
                    return other.g(i)
    """,
    "package/other.py": "def g(x):\n    return x + 1\n",
    "space/inside.py": "for i in range(1):\n    print(__package__)\n",
    "broken.py": "for i in range(3)\n    print(i)\n",
    "random.py": "mine = 1\n",
    "failing.py": "def f():\n    for i in range(3):\n        {}['x'].get(1)\nf()\n",
}


def test_imports_are_like_python(like_python: Any) -> None:
    like_python(IMPORTS)


PROCESSES = """
    import multiprocessing, pickle, sys
    from dataclasses import dataclass

    @dataclass
    class Item:
        x: int
        def work(self):
            total = 0
            for i in range(self.x):
                total += int(i)
            return total

    def work(item):
        for _ in range(1):
            return Item(item.work()), __name__ != "__main__", "whynan" in sys.modules and METHOD == "spawn"

    METHOD = sys.argv[1]
    if __name__ == "__main__":
        context = multiprocessing.get_context(METHOD)
        with context.Pool(2) as pool:
            for result in pool.map(work, [Item(3), Item(5)]):
                print(result)
        print(pickle.loads(pickle.dumps(Item(2))), pickle.dumps(Item))
        process = context.Process(target=work, args=(3,))
        process.start()
        process.join()
        print(process.exitcode)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_are_like_python(method: str, like_python: Any) -> None:
    like_python({"main.py": PROCESSES}, "main.py", method)


WAIT = """
    import time
    def wait():
        time.sleep(10)
    try:
        print("ready", flush=True)
        wait()
    finally:
        print("finally")
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_like_python(sent: signal.Signals, like_python: Any) -> None:
    outcome = like_python({"main.py": WAIT}, interrupt=sent)
    assert outcome.status == -sent


def test_a_caught_interrupt_is_like_python(like_python: Any) -> None:
    handled = WAIT.replace("finally:", "except KeyboardInterrupt:")
    assert like_python({"main.py": handled}, interrupt=signal.SIGINT).status == 0
