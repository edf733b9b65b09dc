"""A hash of the code that makes files in a cache. It changes with this code, but not with comments or docstrings.

A version number for each stage would have to be raised by hand, and no test could check that, because the last digits
of training results differ between processors. So the source is read: from the functions that make a stage, along all
names that they use, to all definitions of this package that may be involved. Code that a stage does not use, such as
figures, does not count.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from longrecipe.system.paths import PACKAGE

Definition = tuple[str, str]


@functools.cache
def code_hash(*entries: str, package: Path = PACKAGE) -> str:
    """A hash of the code that entries use, eight characters.

    entries: `module:name` or `module:Class.method`, such as `longrecipe.recipe.stages:Recipe.extend`. For a class in
    the second form only the methods that are used count, for other classes all methods. An entry that starts with a
    minus is left out, together with code that only it uses, for code that only words errors. Sources are read, but not
    imported.
    Raises ValueError for an entry that does not exist.
    """
    digest = hashlib.sha256()
    for (module, name), source in sorted(closure(*entries, package=package).items()):
        digest.update(f"{module}:{name}\n{source}\n".encode())
    return digest.hexdigest()[:8]


def closure(*entries: str, package: Path = PACKAGE) -> dict[Definition, str]:
    """All definitions that entries use, by module and name, as dumps of their syntax trees without docstrings."""
    package = package.resolve()
    walk = _Walk(package, {entry[1:] for entry in entries if entry.startswith("-")})
    for entry in entries:
        if entry.startswith("-"):
            continue
        module, _, name = entry.partition(":")
        if walk.module(module) is None or not walk.add(module, *name.split(".")):
            raise ValueError(f"{entry!r}: there is no such definition in {package}.")
    return walk.found


@dataclass
class _Module:
    """The definitions and imports of a source file, and its other statements, which run at import."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    # By the name in this module: the source module, and the name there (None: the module itself is imported).
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


class _Walk:
    def __init__(self, package: Path, left_out: set[str]):
        self.package, self.left_out, self.found = package, left_out, {}
        self._modules: dict[str, _Module | None] = {}

    def module(self, name: str) -> _Module | None:
        """The module with a dotted name; None if it is not part of the package."""
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = _parsed(path, self.package.name, path.stat().st_mtime_ns) if path else None
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        first, *rest = name.split(".")
        if first != self.package.name:
            return None
        place = self.package.joinpath(*rest)
        return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)

    def add(self, module: str, name: str, method: str | None = None) -> bool:
        """Add a definition and everything that it uses. Returns False if there is no such definition."""
        there = self.module(module)
        if there is None or name not in there.definitions:
            return False
        if f"{module}:{name}" in self.left_out:
            return True
        for node in there.definitions[name]:
            if method is None:
                self._add(module, name, [node])
            else:
                self._add_method(module, node, method)
        # These statements run as soon as the module is imported.
        self._add(module, "", there.effects)
        return True

    def _add(self, module: str, name: str, nodes: list[ast.stmt], methods_of: ast.ClassDef | None = None) -> None:
        if (module, name) in self.found:
            return
        self.found[module, name] = "\n".join(map(ast.dump, nodes))
        for node in nodes:
            for used in _names(node):
                self._use(module, used)
                if methods_of and used[0] == "self" and len(used) > 1:
                    self._add_method(module, methods_of, used[1])

    def _add_method(self, module: str, node: ast.stmt, method: str) -> None:
        if not isinstance(node, ast.ClassDef):
            raise ValueError(f"{module} has no class of which {method!r} could be a method.")
        functions = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
        rest = [each for each in node.body if not isinstance(each, ast.FunctionDef)]
        header = ast.ClassDef(node.name, node.bases, node.keywords, rest or [ast.Pass()], node.decorator_list)
        self._add(module, node.name, [header])
        if method in functions:
            self._add(module, f"{node.name}.{method}", [functions[method]], node)

    def _use(self, module: str, names: list[str]) -> None:
        """Follow a name with attributes, such as `selection.Sample`, to its definition."""
        name, *attributes = names
        there = self.module(module)
        if there is None or self.add(module, name):
            return
        if name not in there.imports:
            # It may be a module of a package.
            self._use_module(f"{module}.{name}", attributes)
            return
        source, original = there.imports[name]
        if original is None:
            self._use_module(source, attributes)
        elif self.module(source) is not None:
            self._use(source, [original, *attributes])

    def _use_module(self, name: str, attributes: list[str]) -> None:
        there = self.module(name)
        if there is None:
            return
        for used in [attributes] if attributes else [[each] for each in there.definitions]:
            self._use(name, used)


@functools.cache
def _parsed(path: Path, package: str, changed_ns: int) -> _Module:
    module = _Module()
    tree = _Plain().visit(ast.parse(path.read_text(encoding="utf-8")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                module.imports[each.asname or each.name.split(".")[0]] = (each.name if each.asname else package, None)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module.imports |= {each.asname or each.name: (node.module, each.name) for each in node.names}
    for node in tree.body:
        names = _defined(node)
        for name in names:
            module.definitions.setdefault(name, []).append(node)
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not names and not is_text and not isinstance(node, ast.Import | ast.ImportFrom):
            module.effects.append(node)
    return module


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        # `a.b = c` and `a[b] = c` do not define a name, but change something at import.
        each = [name for target in targets for name in getattr(target, "elts", [target])]
        return [name.id for name in each if isinstance(name, ast.Name)]
    return []


def _names(node: ast.AST) -> Iterator[list[str]]:
    """All names that a node uses, with the attributes that follow them: `a.b.c` gives a, b, c."""
    if isinstance(node, ast.Attribute | ast.Name):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield [node.id, *chain]
            return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


# Arguments that are only used in tables and figures.
_SHOWN = {"Field": {"description"}, "Method": {"title", "colour", "law"}, "Family": {"colour", "table1", "table4"}}


class _Plain(ast.NodeTransformer):
    """Remove docstrings, and the arguments in _SHOWN."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if is_definition and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SHOWN:
            node.keywords = [each for each in node.keywords if each.arg not in _SHOWN[node.func.id]]
        return node
