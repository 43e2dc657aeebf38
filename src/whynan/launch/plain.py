"""The plain code beside the rewritten, for whoever reads bytecode instead of running it: compilers, picklers.

A compiled function is not replayed loop by loop, and a function that is sent to another process meets no whynan there:
both get the code that plain python would have given them.
"""

from types import CodeType, ModuleType
from typing import Any

from whynan.launch.imports import when_imported

_pairs: dict[str, list[tuple[CodeType, CodeType]]] = {}
_plain: dict[tuple[str, CodeType], CodeType] = {}


def remember(rewritten: CodeType, plain: CodeType) -> None:
    """Keep the plain code of a module that was rewritten."""
    _pairs.setdefault(rewritten.co_filename, []).append((rewritten, plain))


def plain_code(code: CodeType) -> CodeType:
    """Return what plain python would have compiled where whynan compiled `code`; `code` itself if it is not ours."""
    for rewritten, plain in _pairs.pop(code.co_filename, ()):
        _pair(rewritten, plain)
    return _plain.get((code.co_filename, code), code)


def _pair(rewritten: CodeType, plain: CodeType) -> None:
    """Walk two versions of one module; rewriting adds no function and changes no order."""
    _plain[rewritten.co_filename, rewritten] = plain
    inner = [const for const in rewritten.co_consts if isinstance(const, CodeType)]
    inner_plain = [const for const in plain.co_consts if isinstance(const, CodeType)]
    if [code.co_qualname for code in inner] == [code.co_qualname for code in inner_plain]:
        for one, other in zip(inner, inner_plain):
            _pair(one, other)


def rewritten_code(code: CodeType) -> CodeType:
    """Return the rewritten form of plain code, whichever copy of it; `code` itself where there is none."""
    plain_code(code)
    for (filename, rewritten), plain in _plain.items():
        if filename == code.co_filename and plain == code:
            return rewritten
    return code


def serve_readers() -> None:
    """Give plain code to the known readers of bytecode, once the program imports them."""
    when_imported("torch._dynamo.bytecode_transformation", _serve_dynamo)
    when_imported("torch._dynamo.trace_rules", _skip_whynan)
    when_imported("numba.core.bytecode", _serve_numba)
    for home in ("cloudpickle", "joblib.externals.cloudpickle", "ray.cloudpickle"):
        when_imported(f"{home}.cloudpickle", _serve_cloudpickle)


def _serve_dynamo(module: ModuleType) -> None:
    names = vars(module)
    read = names["_cached_cleaned_instructions"]
    names["_cached_cleaned_instructions"] = lambda code, *args, **options: read(plain_code(code), *args, **options)


def _skip_whynan(module: ModuleType) -> None:
    """Keep the compiler away from whynan's own functions, which a loop calls where its function was not compiled."""
    vars(module)["add"]("whynan")


def _serve_numba(module: ModuleType) -> None:
    names = vars(module)
    get_code_object = names["get_code_object"]

    def get_plain_code_object(obj: object) -> Any:
        code = get_code_object(obj)
        return plain_code(code) if isinstance(code, CodeType) else code

    names["get_code_object"] = get_plain_code_object


def _serve_cloudpickle(module: ModuleType) -> None:
    table = vars(module)["CloudPickler"]._dispatch_table
    reduce = table[CodeType]
    table[CodeType] = lambda code: reduce(plain_code(code))
