"""README.md, docs/ and the help of commands: every snippet is valid, and those that take seconds run as pasted."""

import ast
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
from pages import PAGES, ROOT

from longrecipe import cli, settings
from longrecipe.settings import Params

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
# Programs whose arguments are not checked.
OTHERS = ("pytest", "jupyter", "tensorboard", "python3", "source", "ls", "export")
# Training with more steps takes minutes.
MOST_STEPS = 8


def blocks(page):
    """The code blocks of a page in order, as (kind, text)."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGES[page].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(text):
    """The commands of shell lines, as lists of words."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split("#")[0].split("&&"):
            if words := shlex.split(part):
                yield words


def shell(page):
    """The commands of a page: those of its blocks, and those with arguments in its text."""
    text = "\n".join(text for kind, text in blocks(page) if kind == "bash")
    inline = re.findall(r"`((?:longrecipe|papermill|pip) [^`|]+)`", PAGES[page].read_text(encoding="utf-8"))
    return [*commands(text), *(words for each in inline for words in commands(each) if len(words) > 2)]


HELP = "\n".join([cli.START, *(module.EXAMPLES for module in cli.COMMANDS.values())]).replace("\\\n", " ")
HELP = re.findall(r"^ +((?:accelerate|longrecipe) .+)$", HELP, re.MULTILINE)
COMMANDS = [words for page in PAGES for words in shell(page)] + [*commands("\n".join(HELP))]
LAUNCHERS = ("longrecipe", "accelerate", "torchrun")


def keys(words):
    """The settings that a command gives by -p."""
    return {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_is_valid(words, capsys):
    if words[0] in LAUNCHERS:
        check_longrecipe(words, words[words.index("longrecipe") + 1 :])
    elif words[0] == "papermill":
        check_papermill(words[1:])
    elif words[0] == "pip" or words[:2] == ["uv", "pip"]:
        named = re.findall(r"\.\[([\w,]+)\]", " ".join(words))
        assert {extra for each in named for extra in each.split(",")} <= EXTRAS.keys()
        assert all((ROOT / words[i + 1]).is_file() for i, word in enumerate(words) if word == "-c")
    elif words[:3] == ["conda", "env", "create"]:
        assert (ROOT / words[words.index("-f") + 1]).is_file()
    elif words[0] in ("cp", "python"):
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in OTHERS or words[:2] == ["conda", "activate"]


def check_longrecipe(words, arguments):
    try:
        chosen = cli.parser().parse_args(arguments)
    except SystemExit as left:  # --help, --version and --reference
        assert left.code == 0
        return
    assert chosen.module is cli.COMMANDS[arguments[0]]
    assert keys(words).keys() <= {*Params.model_fields, "profile"}
    for option in ("--params", "--config_file"):
        if option in words and (name := words[words.index(option) + 1]) not in ("own.yaml", "FILE"):
            assert (ROOT / name).is_file()


def check_papermill(words):
    assert (ROOT / words[0]).is_file() and words[1] == "out.ipynb"
    given = keys(words)
    if given.get("model") != "own.yaml":
        settings.load(given.pop("model", "llama3"), **given)


def test_commands_are_found():
    assert len(COMMANDS) > 40
    assert {words[0] for words in COMMANDS} >= {"longrecipe", "papermill", "pip", "accelerate", "torchrun"}


def runs_in_seconds(arguments, folder):
    """Whether a longrecipe command is run by the test: it needs no model that is not there, and trains little."""
    chosen = cli.parser().parse_args(arguments)
    if getattr(chosen, "params", None) == "own.yaml" and not (folder / "my-model").is_dir():
        return False
    if arguments[0] == "train":
        steps = keys(arguments)
        return all(int(steps.get(f"{stage}_steps", 99)) <= MOST_STEPS for stage in ("extend", "replay"))
    return arguments[0] == "check" or (arguments[0] == "sweep" and chosen.dry_run)


@pytest.mark.parametrize("page", [page for page in PAGES if {"bash", "python"} & dict(blocks(page)).keys()])
@pytest.mark.slow
def test_snippets_run_as_pasted(page, tmp_path, monkeypatch, capsys, warm_children):
    """In the order of the page, in a folder that has what the root of the repository has."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("params", "results", "notebooks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, page, "exec"), {"__name__": "__main__"})
        for words in commands(text) if kind == "bash" else ():
            run(words, tmp_path)


def run(words, folder):
    if words[0] == "cp":
        shutil.copyfile(words[1], words[2])
    elif words[0] == "ls":
        assert all((folder / name).exists() for name in words[1:])
    elif words[0] == "longrecipe":
        try:
            if runs_in_seconds(words[1:], folder):
                cli.main(words[1:])
        except SystemExit as left:
            assert left.code == 0, words


def test_parameters_cell_in_the_documentation_is_valid():
    (cell,) = (text for kind, text in blocks("docs/settings.md") if kind == "python")
    values = {}
    exec(cell, {}, values)
    p = settings.from_notebook(values)
    assert (p.method, p.merge_weight) == ("pose", 0.5)


def test_own_params_file_is_shown_in_full():
    shown = [text for page in PAGES for kind, text in blocks(page) if kind == "yaml"]
    assert shown == [(ROOT / "params" / "own.yaml").read_text(encoding="utf-8")]


def messages():
    """All texts of the package in one line each, with a mark for what is filled in."""
    found = []
    for path in sorted((ROOT / "longrecipe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [each.value if isinstance(each, ast.Constant) else "\0" for each in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("%s", "\0"))
    return [" ".join(text.split()) for text in found]


def test_quoted_messages_are_those_of_the_package():
    """Between its dots, which stand for what is filled in, a message has the words of the code."""
    known = messages()
    quoted = [" ".join(text.split()) for kind, text in blocks("docs/troubleshooting.md") if kind == "text"]
    assert len(quoted) > 10
    for message in quoted:
        parts = [part.strip() for part in re.split(r"\.{3,}", message) if len(part.strip()) > 12]
        assert parts
        for part in parts:
            assert any(part in text for text in known), part


def test_table_of_methods_is_complete():
    page = PAGES["docs/settings.md"].read_text(encoding="utf-8")
    section = page.split("## Methods")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == list(settings.groups.METHODS)


def test_every_page_is_in_the_index():
    index = Path(PAGES["docs/README.md"]).read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {path.name for path in PAGES.values()} - {"README.md"}
