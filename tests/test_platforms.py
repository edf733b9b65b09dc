"""Finds code that does not run on Windows or macOS at scale mini, in the sources."""

import ast
from pathlib import Path

import pytest

from longrecipe.system.paths import PACKAGE

# Modules and functions of Unix; `resource` may be imported inside a function that Windows does not call.
MODULES = {"fcntl", "pwd", "grp", "termios", "resource"}
FUNCTIONS = {"sysconf", "fork", "kill", "getuid", "geteuid", "uname", "statvfs", "sched_getaffinity", "mkfifo"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [*SOURCES, Path(__file__).parent / "strip_progress.py"]


def unix_only(tree):
    """Unix-only modules and functions that a module uses; those imported inside a function only where it is called."""
    inside = {id(each) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for each in ast.walk(f)}
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            found |= {f"os.{a.name}" for a in node.names if node.module == "os" and a.name in FUNCTIONS}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found |= {f"os.{node.attr}"} if node.attr in FUNCTIONS else set()
        elif isinstance(node, ast.Attribute) and node.attr == "is_mount":
            found.add("Path.is_mount")
        late = {"resource"} if id(node) in inside else set()
        found |= {name for name in names if name.partition(".")[0] in MODULES - late}
    return found


def without_encoding(tree):
    """The lines on which text is read or written in the encoding of the system."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in ("read_text", "write_text"):
            # The encoding may come by place; files.write_text(path, text) has its own.
            needs = isinstance(node.func, ast.Attribute) and len(node.args) < (1 if name == "read_text" else 2)
        elif name == "open" and not (isinstance(node.func, ast.Attribute) and _is(node.func.value, "os")):
            # Path.open(mode), open(path, mode); compressed files are opened in binary unless the mode says text.
            place = 1 if isinstance(node.func, ast.Name) else 0
            mode = words.get("mode", node.args[place] if len(node.args) > place else ast.Constant("r"))
            needs = isinstance(mode, ast.Constant) and "b" not in str(mode.value)
            needs &= not (isinstance(node.func, ast.Attribute) and _is(node.func.value, "gzip", "bz2", "lzma"))
        elif name in ("run", "Popen", "check_output") and "text" in words:
            needs = True
        else:
            continue
        if needs and "encoding" not in words:
            lines.append(node.lineno)
    return lines


def _is(node, *names):
    return isinstance(node, ast.Name) and node.id in names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_needs_unix(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not unix_only(tree)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_text_is_read_and_written_as_utf_8(path):
    assert without_encoding(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", {"fcntl"}),
        ("from resource import getrusage", {"resource"}),
        ("def f():\n    import resource", set()),
        ("def f():\n    import fcntl", {"fcntl"}),
        ("import os\nos.sysconf('SC_PAGE_SIZE')", {"os.sysconf"}),
        ("from os import fork", {"os.fork"}),
        ("path.is_mount()", {"Path.is_mount"}),
        ("import os\nos.path.ismount(path)", set()),
    ],
)
def test_the_scan_finds_what_is_unix_only(source, found):
    assert unix_only(ast.parse(source)) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("path.read_text()", [1]),
        ("path.write_text('a')", [1]),
        ("path.read_text(encoding='utf-8')", []),
        ("open(path)", [1]),
        ("path.open('w')", [1]),
        ("path.open('rb')", []),
        ("open(path, 'wb')", []),
        ("gzip.open(path)", []),
        ("subprocess.run(x, text=True)", [1]),
        ("write_text(path, text)", []),
    ],
)
def test_the_scan_finds_text_without_encoding(source, found):
    assert without_encoding(ast.parse(source)) == found
