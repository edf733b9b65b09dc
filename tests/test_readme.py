"""Commands and code in README.md and in the help are valid: they name existing commands, options and functions."""

import ast
import importlib
import inspect
import re
import shlex

import pytest

from longrecipe import cli
from longrecipe.system.paths import PACKAGE

README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
SHELL = "\n".join(text for kind, text in BLOCKS if kind == "bash")
HELP = "\n".join([cli.START, *(module.EXAMPLES for module in cli.COMMANDS.values())]).replace("\\\n", " ")


def commands(text):
    """The arguments of each longrecipe command in lines of a shell."""
    found = re.findall(r"^\s*(?:accelerate .*-m )?longrecipe (.+)$", text, re.MULTILINE)
    # --reference exits while it is parsed; test_cli.py covers it.
    return [shlex.split(line, comments=True) for line in found if "--reference" not in line]


@pytest.mark.parametrize("words", commands(SHELL) + commands(HELP), ids=" ".join)
def test_commands_are_valid(words):
    assert cli.parser().parse_args(words).module is cli.COMMANDS[words[0]]


def test_own_params_file_is_shown_in_full():
    assert [text for kind, text in BLOCKS if kind == "yaml"] == [
        (PACKAGE.parent / "params" / "own.yaml").read_text(encoding="utf-8")
    ]


def test_python_calls_existing_functions_with_their_arguments():
    (tree,) = (ast.parse(text) for kind, text in BLOCKS if kind == "python")
    names, calls = {}, 0
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for each in node.names:
                there = getattr(module, each.name, None)
                names[each.name] = there or importlib.import_module(f"{node.module}.{each.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            # A method of a result, as in `tokens.rank(...).anchors(1)`, has no name to look up.
            first, *rest = ast.unparse(node.func).split(".")
            if first in names and all(map(str.isidentifier, rest)):
                function = names[first]
                for attribute in rest:
                    function = getattr(function, attribute)
                inspect.signature(function).bind(*node.args, **{word.arg: word.value for word in node.keywords})
                calls += 1
    assert calls >= 10
