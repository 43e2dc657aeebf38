"""The user's source with every operation handed to a recorder: what a replay of a NumPy step runs.

`a * b` becomes `__whynan_do__(n, "mul", a, b)`, a call, a subscript, an assignment in place likewise. Line numbers and
columns are the user's. Functions that ask for their caller (`super()`, `locals()`) are called as they are.
"""

import ast
from typing import TypeVar

_BINARY: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.MatMult: "matmul", ast.Pow: "pow",
    ast.Mod: "mod", ast.FloorDiv: "floordiv",
}  # fmt: skip
_UNTOUCHED = {"super", "locals", "globals", "vars", "dir", "eval", "exec", "print", "len", "range", "enumerate", "zip",
              "isinstance", "open", "type", "id", "iter", "next", "reversed", "input"}  # fmt: skip


_N = TypeVar("_N", bound=ast.AST)


class _Instrumenter(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        name = _BINARY.get(type(node.op))
        return self._do(node, name, [node.left, node.right]) if name else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            return self._do(node, "neg", [node.operand])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load) and not _has_slice(node.slice):
            return self._do(node, "getitem", [node.value, node.slice])
        if isinstance(node.ctx, ast.Load):
            return self._do(node, "getitem", [node.value, _slice_as_call(node.slice)])
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _UNTOUCHED:
            return node
        new = ast.Call(ast.Name("__whynan_call__", ast.Load()), [node.func, *node.args], node.keywords)
        return _at(new, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        self.generic_visit(node)
        name = _BINARY.get(type(node.op))
        if name is None:
            return node
        if isinstance(node.target, ast.Name):
            load = _at(ast.Name(node.target.id, ast.Load()), node.target)
            return _at(ast.Assign([node.target], self._do(node, f"i{name}", [load, node.value])), node)
        if isinstance(node.target, ast.Attribute):
            arguments = [node.target.value, _at(ast.Constant(node.target.attr), node.target), node.value]
            return _at(ast.Expr(self._do(node, f"iattr_{name}", arguments)), node)
        if isinstance(node.target, ast.Subscript):
            arguments = [node.target.value, _slice_as_call(node.target.slice), node.value]
            return _at(ast.Expr(self._do(node, f"iitem_{name}", arguments)), node)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            arguments = [target.value, _slice_as_call(target.slice), node.value]
            return _at(ast.Expr(self._do(node, "setitem", arguments)), node)
        return node

    @staticmethod
    def _do(node: ast.AST, name: str, arguments: list[ast.expr]) -> ast.expr:
        operation = _at(ast.Constant(name), node)
        return _at(ast.Call(_at(ast.Name("__whynan_do__", ast.Load()), node), [operation, *arguments], []), node)


def _at(new: _N, old: ast.AST) -> _N:
    ast.copy_location(new, old)
    for child in ast.iter_child_nodes(new):
        if not hasattr(child, "lineno") and isinstance(child, (ast.expr, ast.stmt, ast.keyword)):
            ast.copy_location(child, old)
    return new


def _has_slice(node: ast.expr) -> bool:
    return isinstance(node, ast.Slice) or (isinstance(node, ast.Tuple) and any(map(_has_slice, node.elts)))


def _slice_as_call(node: ast.expr) -> ast.expr:
    """Return `a:b` as `slice(a, b)`, so that it can be an argument."""
    if isinstance(node, ast.Slice):
        none = ast.Constant(None)
        parts = [part if part is not None else none for part in (node.lower, node.upper, node.step)]
        return _at(ast.Call(ast.Name("slice", ast.Load()), parts, []), node)
    if isinstance(node, ast.Tuple):
        return _at(ast.Tuple([_slice_as_call(item) for item in node.elts], ast.Load()), node)
    return node


def instrumented(tree: ast.AST) -> ast.AST:
    """Return a module's tree with every operation handed to the recorder."""
    return _Instrumenter().visit(tree)  # type: ignore[no-any-return]
