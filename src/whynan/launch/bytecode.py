"""Plain code for whoever reads bytecode instead of running it: compilers, and picklers of functions.

A compiled function is not replayed loop by loop, and a function that is sent to another process meets no whynan there:
both get the code that plain python would have given them.
"""

from types import CodeType, ModuleType
from typing import Any

from whynan.launch.imports import when_imported
from whynan.launch.plain import plain_code


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
