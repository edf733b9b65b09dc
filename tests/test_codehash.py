"""The hash of the code that a stage uses."""

import ast
import shutil
import sys
from pathlib import Path

import pytest

from longrecipe import evaluate, recipe, settings
from longrecipe.recipe.cache import CODE
from longrecipe.system.codehash import closure, code_hash
from longrecipe.system.paths import PACKAGE


def package_of(folder, **sources):
    """A package with modules of the given sources."""
    package = folder / "kit"
    for name, source in ({"__init__": ""} | sources).items():
        path = package.joinpath(*name.split("__", 1)) if "__" in name[1:-1] and name != "__init__" else package / name
        path = path.with_name(path.name + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


def names(package, *entries):
    return sorted(f"{module}:{name}" for module, name in closure(*entries, package=package) if name)


SOURCES = {
    "main": (
        "import kit.unused_module as unused\nfrom kit import tools\nfrom kit.parts import Part as P, other\n\n"
        "class Run:\n    rate: int = 3\n\n    @property\n    def part(self):\n        return P(self.rate)\n\n"
        "    def stage(self):\n        return tools.work(self.part)\n\n    def shown(self):\n        return other()\n"
    ),
    "tools": "LIMIT = 5\nUNUSED = 7\n\ndef work(part):\n    return min(LIMIT, part.size())\n",
    "parts": (
        "from kit import tools\n\nclass Part:\n    def size(self):\n        return _size()\n\ndef _size():\n"
        "    return REGISTRY['a']()\n\ndef one():\n    return 1\n\nREGISTRY = {'a': one}\n\n"
        "def other():\n    return 2\n"
    ),
    "unused_module": "NUMBER = 1\n",
}


def test_closure_follows_names_attributes_and_registries(tmp_path):
    package = package_of(tmp_path, **SOURCES)
    used = ["main:Run", "main:Run.part", "main:Run.stage", "parts:Part", "parts:REGISTRY", "parts:_size", "parts:one"]
    used += ["tools:LIMIT", "tools:work"]
    assert names(package, "kit.main:Run.stage") == [f"kit.{name}" for name in used]


@pytest.mark.parametrize(
    ("module", "before", "after", "changes"),
    [
        ("main", "    def stage(self):\n", '    def stage(self):\n        """What it does."""\n', False),
        ("tools", "LIMIT = 5\n", "LIMIT = 5  # at most\n", False),
        ("tools", "LIMIT = 5\n", '"""A module."""\nLIMIT = (5)\n', False),
        ("tools", "UNUSED = 7", "UNUSED = 8", False),
        ("main", "return other()", "return 3", False),
        ("unused_module", "1", "2", False),
        ("parts", "return 2", "return 3", False),
        ("tools", "LIMIT = 5", "LIMIT = 6", True),
        ("main", "rate: int = 3", "rate: int = 4", True),
        ("parts", "return 1", "return 1.5", True),
        ("parts", "'a': one", "'a': other", True),
        ("parts", "REGISTRY = ", "import os\nos.environ['A'] = '1'\nREGISTRY = ", True),
    ],
)
def test_only_code_that_is_used_changes_the_hash(tmp_path, module, before, after, changes):
    package = package_of(tmp_path, **SOURCES)
    path = package / f"{module}.py"
    first = code_hash.__wrapped__("kit.main:Run.stage", package=package)
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert (code_hash.__wrapped__("kit.main:Run.stage", package=package) != first) == changes


@pytest.mark.parametrize("entry", ["kit.main:Ran", "kit.nothing:Run", "os:path", "kit.main:"])
def test_unknown_entry_is_an_error(tmp_path, entry):
    with pytest.raises(ValueError, match="there is no such definition"):
        closure(entry, package=package_of(tmp_path, **SOURCES))


def test_entry_with_a_minus_is_left_out_with_code_that_only_it_uses(tmp_path):
    package = package_of(tmp_path, **SOURCES)
    found = names(package, "kit.main:Run.stage", "-kit.parts:_size")
    assert {"kit.parts:REGISTRY", "kit.parts:one", "kit.parts:_size"}.isdisjoint(found) and "kit.parts:Part" in found


# the stages


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of this package's sources."""
    ignored = shutil.ignore_patterns("assets", "__pycache__", "_params")
    return shutil.copytree(PACKAGE, tmp_path_factory.mktemp("copy") / "longrecipe", ignore=ignored)


def hashes(package):
    return {stage: code_hash.__wrapped__(*entries, package=package) for stage, entries in CODE.items()}


def replaced(path, before, after):
    source = path.read_text(encoding="utf-8")
    assert before in source, before
    path.write_text(source.replace(before, after), encoding="utf-8")


@pytest.mark.slow
def test_comments_and_docstrings_change_no_hash(copied, tmp_path):
    before, package = hashes(copied), shutil.copytree(copied, tmp_path / "longrecipe")
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.Expr(ast.Constant("Another docstring."))
                node.body = [text, *(node.body[1:] if ast.get_docstring(node) is not None else node.body)]
        # unparse drops the comments.
        path.write_text("# A comment.\n" + ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    assert hashes(package) == before


@pytest.mark.parametrize(
    ("module", "before", "after", "stages"),
    [
        ("evaluate/reader.py", '"medium"', '"high"', {"analysis", "extend", "replay"}),
        ("positions/transforms.py", "def longrecipe(", "SEED = 1\n\n\ndef longrecipe(", set()),
        ("train/trainer.py", "adam_beta2=0.98", "adam_beta2=0.99", {"analysis", "extend", "replay"}),
        ("settings/groups.py", "int(self.ratio * self.target_length)", "round(self.ratio)", {"extend", "replay"}),
        ("merge.py", "torch.lerp(tuned.to(wide), original.to(wide), weight)", "tuned", {"merge"}),
        ("tokens/ranking.py", "ANCHOR_RULES = ", "ANCHOR_RULES = () + ", {"extend", "replay"}),
        ("plots/style.py", "0.25", "0.3", set()),
        ("train/trackers.py", '"WANDB_DIR"', '"WANDB_FOLDER"', set()),
        ("results/run.py", "seed{params.seed}", "s{params.seed}", set()),
        ("positions/methods.py", '"#0072B2"', '"#000001"', set()),
        ("positions/rivals.py", "/ (6 * (n - 1))", "/ (7 * (n - 1))", set()),
        ("families.py", 'table1="mistral-7b"', 'table1="mistral"', set()),
        ("recipe/card.py", "def card(", "def card_(", set()),
        ("evaluate/perplexity.py", "math.exp(", "math.exp(1 + ", {"measure"}),
        ("evaluate/association.py", "def association(", "SEED = 1\n\n\ndef association(", set()),
    ],
)
def test_hash_of_a_stage_depends_on_the_code_it_uses(tmp_path, copied, module, before, after, stages):
    package, first = shutil.copytree(copied, tmp_path / "longrecipe"), {s: code_hash(*e) for s, e in CODE.items()}
    replaced(package / module, before, after)
    found = hashes(package)
    assert {stage for stage in CODE if found[stage] != first[stage]} >= stages
    if not stages:
        assert found == first


def train(run, _network):
    analysis = run.analyse()
    run.replay(run.extend(run.stage_one_set(analysis)), analysis)


def measure(run, network):
    read, held_out = evaluate.to_read(network, "bf16"), run.text.long.held_out
    asked = {"lengths": [512], "n_documents": 2, "n_facts": 2, "seed": 0, "n_passkeys": 2}
    evaluate.report(read, held_out, evaluate.planted(run.tokenizer), others=evaluate.OTHERS[:-1], **asked)
    evaluate.report(read, held_out, evaluate.sentences(run.tokenizer), others=evaluate.OTHERS[-1:], **asked)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "do", "least"), [("replay", train, 100), ("measure", measure, 50)])
def test_every_function_that_a_run_executes_is_in_the_hash(stage, do, least, tmp_path, monkeypatch):
    """Calls through a registry could be missed by reading names, so a short run is watched."""
    from runs import SHORT

    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path))
    (tmp_path / "params").symlink_to(PACKAGE.parent / "params")
    p = settings.load("llama3", **SHORT)
    run = recipe.prepare(p)
    network = run.raised()
    called: set[tuple[str, str]] = set()

    def watch(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            called.add((code.co_filename, code.co_qualname.split(".<locals>")[0]))

    sys.setprofile(watch)
    try:
        do(run, network)
    finally:
        sys.setprofile(None)
    left_out = [entry[1:] for entry in CODE[stage] if entry.startswith("-")]
    known = closure(*CODE[stage]) | closure(*left_out)
    missed = set()
    for file, name in called:
        module = ".".join(Path(file).relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        whole = {(module, name), (module, name.split(".")[0])} if not name.startswith("Recipe.") else {(module, name)}
        if not whole & known.keys():
            missed.add(f"{module}:{name}")
    # How folders and processes are found, and progress, make no difference to what is trained.
    assert len(called) > least and sorted(each for each in missed if not each.endswith((":<module>", "<lambda>"))) == []
