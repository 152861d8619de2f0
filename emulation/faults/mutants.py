"""Mutants of code that relies on flushes, fences, invalidations, checksums and their order: each left out, or moved, in turn.

Knows Python's syntax trees and what these calls are named; knows no pool and no test. A mutant is the code of one function with one
change. It is put into the function that is there, so that whoever holds a reference runs it:

    for mutant in mutants_of(sac_runtime.pool.lines):
        with mutant.applied():
            assert any(fails(test) for test in tests), mutant.name

Three kinds: a call of `flush`, `fence` or `invalidate` left out; a comparison with a `checksum` that always holds; two calls in
a row, one of them of ORDERED, that change places."""

import ast
import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType

DROPPED = ("flush", "fence", "invalidate")
ORDERED = (
    *DROPPED,
    "write_bytes",
    "_flush",
    "_announce",
    "_catch_up",
    "append",
    "write_superblock",
    "erase_superblock",
)


@dataclass(frozen=True)
class Mutant:
    """One function with one change. name: module, function, line and what was done."""

    name: str
    function: FunctionType
    code: CodeType

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The function is the mutant while the body runs."""
        right = self.function.__code__
        self.function.__code__ = self.code
        try:
            yield
        finally:
            self.function.__code__ = right


def mutants_of(module: ModuleType) -> list[Mutant]:
    """All mutants of the functions and methods of a module, in the order of its lines."""
    source = inspect.getsource(module)
    num_changes = len(list(_changes(ast.parse(source))))
    found = []
    for number in range(num_changes):
        tree = ast.parse(source)
        path, line, change = list(_changes(tree))[number]
        what = change()
        code = _code_at(compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec"), path)
        name = f"{module.__name__.rpartition('.')[2]}.{'.'.join(path)} line {line}: {what}"
        found.append(Mutant(name, _function_at(module, path), code))
    return found


class _Change:
    """A change to a list of statements, or to an expression; made when called. Returns what was done."""

    def __init__(
        self, body: list[ast.stmt], place: int, comparison: ast.Compare | None = None, swaps: bool = False
    ) -> None:
        self._body, self._place, self._comparison, self._swaps = body, place, comparison, swaps

    def __call__(self) -> str:
        if self._comparison is not None:
            words = ast.unparse(self._comparison)
            self._comparison.left = copy.deepcopy(self._comparison.comparators[0])
            return f"`{words}` always holds"
        first = self._body[self._place]
        if self._swaps:
            second = self._body[self._place + 1]
            self._body[self._place : self._place + 2] = [second, first]
            return f"`{ast.unparse(second)}` before `{ast.unparse(first)}`"
        self._body[self._place] = ast.copy_location(ast.Pass(), first)
        return f"`{ast.unparse(first)}` left out"


def _changes(tree: ast.Module) -> Iterator[tuple[tuple[str, ...], int, _Change]]:
    """Path of the function, line, and the change."""
    for path, function in _functions(tree, ()):
        for node in ast.walk(function):
            for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                if isinstance(body, list):
                    yield from ((path, body[place].lineno, change) for place, change in _changes_of(body))
            if isinstance(node, ast.Compare) and "checksum" in map(_calls, (node.left, node.comparators[0])):
                yield path, node.lineno, _Change([], 0, comparison=node)


def _changes_of(body: list[ast.stmt]) -> Iterator[tuple[int, _Change]]:
    names = [_calls(statement.value) if isinstance(statement, ast.Expr) else None for statement in body]
    for place, name in enumerate(names):
        if name in DROPPED:
            yield place, _Change(body, place)
        following = names[place + 1] if place + 1 < len(names) else None
        if name and following and name != following and (name in ORDERED or following in ORDERED):
            yield place, _Change(body, place, swaps=True)


def _functions(
    tree: ast.Module | ast.ClassDef, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield (*path, node.name), node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, (*path, node.name))


def _calls(node: ast.expr) -> str | None:
    """The name of the function or method that an expression calls, be it for one element of what comes back."""
    node = node.value if isinstance(node, ast.Subscript) else node
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)


def _code_at(code: CodeType, path: tuple[str, ...]) -> CodeType:
    for name in path:
        code = next(part for part in code.co_consts if isinstance(part, CodeType) and part.co_name == name)
    return code


def _function_at(module: ModuleType, path: tuple[str, ...]) -> FunctionType:
    owner: object = module
    for name in path:
        owner = inspect.getattr_static(owner, name)
    while not isinstance(owner, FunctionType):  # a property, a class method, a context manager
        owner = getattr(owner, "fget", None) or getattr(owner, "__func__", None) or inspect.unwrap(owner)  # type: ignore[arg-type]
    function: FunctionType = inspect.unwrap(owner)
    return function
