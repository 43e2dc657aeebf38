"""The plain code beside the rewritten."""

from types import CodeType

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
