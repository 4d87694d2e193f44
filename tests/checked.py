"""Checks the annotations of the lab while the tests run, shapes included: to be imported before the lab is.

As jaxtyping's own import hook does it, in a third of the time: that looks at each argument three times, and opens a
scope for the names of axes also where a function names none.
"""

import ast
import functools
import inspect
import sys
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType

from beartype import beartype
from jaxtyping import AbstractArray, config, jaxtyped

PACKAGE = "lab"
DECORATOR = f"__import__({__name__!r}).checked"


def checked(thing):
    """A function whose calls are checked, or a class whose fields are, unless that is switched off."""
    if isinstance(thing, type):
        if is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = checked(thing.__init__)
        return thing
    if inspect.isgeneratorfunction(thing):  # beartype would look at its arguments only when it is run
        return jaxtyped(thing, typechecker=beartype)
    typed, scoped = beartype(thing), names_axes(thing)

    @functools.wraps(thing)
    def call(*args, **kwargs):
        if config.jaxtyping_disable:
            return thing(*args, **kwargs)
        if not scoped:
            return typed(*args, **kwargs)
        with jaxtyped("context"):  # the same axis has the same size in all arguments, and in what is returned
            return typed(*args, **kwargs)

    return call


def names_axes(function) -> bool:
    """Whether an annotation of the function's holds a shape; also where it is written as a string."""
    waiting = list(inspect.get_annotations(function).values())
    while waiting:
        one = waiting.pop()
        if isinstance(one, str) or (isinstance(one, type) and issubclass(one, AbstractArray)):
            return True
        waiting += getattr(one, "__args__", ())
    return False


class _Decorated(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.decorator_list.append(_decorator(node))
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list.insert(0, _decorator(node))  # behind @dataclass
        return self.generic_visit(node)


def _decorator(node: ast.stmt) -> ast.expr:
    return ast.copy_location(ast.parse(DECORATOR, mode="eval").body, node)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _Decorated().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


if not config.jaxtyping_disable:  # by $JAXTYPING_DISABLE, as where time is measured
    if PACKAGE in sys.modules:
        raise ImportError(f"{PACKAGE} has been imported already: its calls cannot be checked")
    sys.meta_path.insert(0, _Finder())
