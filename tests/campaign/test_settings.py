"""Random settings by name, from a file and on the command line: they are valid, or one message says why not."""

import contextlib
import datetime
import io
import traceback
import typing

import huggingface_hub.constants
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from campaign.judge import Verdict
from longrecipe import settings as params
from longrecipe.cli import main
from longrecipe.settings import SCALES, Params, ParamsError

pytestmark = pytest.mark.campaign
FIELDS = sorted(Params.model_fields)
NAMES = ("model", "scale", "profile", "method", "weights", "text", "replay_text", "out", "tagger")
# What YAML and Python read in more than one way, and what no setting can be.
ODD_TEXTS = [
    *("", " ", "null", "~", "yes", "off", "nan", ".inf", "-.inf", "1e400", "0x1F", "1_000", "1:30", "2024-01-01", "-0"),
    *("[", "]", "[512", "{", "{a: 1", "a: b: c", "- 1", "!!python/none", "!x y", "&a", "*a", "@", "`", "%", "|", "'"),
    *("\0", "\ufeff", "\ud800", "🙂", "ß" * 300, "x" * 5000, "9" * 5000, "[" * 900, "../..", "/dev/null", "~nobody/x"),
    *(
        "flt",
        "pose",
        "pose:n_chunks=4",
        "pose:n_chunks=0",
        "pose:",
        ":",
        "longrecipe:max_gap=-1",
        "none",
        "pose:n_chunks",
    ),
    *("llama3", "mini", "small", "paper", "cpu", "own.yaml", "a/b", "x/y/z", "float32", "auto", "[128, 256]", "[1, a]"),
]
SCALARS = st.one_of(
    st.sampled_from(ODD_TEXTS),
    st.none(),
    st.booleans(),
    st.integers(-3, 5000),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e308, 0.5, 1.0]),
    st.text(max_size=12),
    st.binary(max_size=4),
    st.dates(),
    st.just(datetime.datetime(2024, 1, 1, 12)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def likely(field):
    """Values of a field's own kind, most of which are allowed, so that checks of several keys are reached, too."""
    kinds = typing.get_args(field.annotation) or (field.annotation,)
    if typing.get_origin(field.annotation) is typing.Literal:
        return st.sampled_from(kinds)
    choices = {
        int: st.sampled_from([1, 2, 3, 16, 64, 128, 255, 256, 512, 1024, 4096, 10**6, 10**12, 2**63]),
        float: st.sampled_from([1e-9, 1e-5, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0, 2.0, 16.0, 1e4, 1e30]),
        bool: st.booleans(),
        str: st.sampled_from(["pose", "flt", "longrecipe", "hanta", "llama3", "a/b", "./text", "1"]),
        type(None): st.none(),
    }
    known = [choices[kind] for kind in kinds if kind in choices]
    return st.one_of(known) if known else st.lists(choices[int], max_size=3)


def with_key(values):
    """A key and one of the values, or for keys of settings a likely one."""
    likely_pairs = st.sampled_from(FIELDS).flatmap(lambda key: st.tuples(st.just(key), LIKELY[key]))
    return st.one_of(likely_pairs, likely_pairs, st.tuples(KEYS, values))


LIKELY = {name: likely(field) for name, field in Params.model_fields.items()}
KEYS = st.one_of(st.sampled_from(FIELDS), st.sampled_from(NAMES), st.text(max_size=8))
CHANGES = st.lists(with_key(VALUES), min_size=1, max_size=4).map(dict)
# Lines of a file as people type them; a key may be there twice.
LINES = st.lists(with_key(st.sampled_from(ODD_TEXTS) | SCALARS), max_size=4)
WORDS = st.lists(with_key(st.sampled_from(ODD_TEXTS) | VALUES), min_size=1, max_size=3)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No drawn name is looked up on a hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


class Draws:
    """The verdicts on draws; what is lost is kept once for each place in the code, with the shortest example."""

    def __init__(self, part, report):
        self.part, self.report, self.lost = part, report, {}

    def count(self, outcome, example, error=None, said=""):
        about = repr(example)[:400]
        self.report(self.part, Verdict(outcome, said), about)
        if outcome == "lost":
            frames = traceback.extract_tb(error.__traceback__) if error else []
            place = next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if "/longrecipe/" in f.filename), "")
            key = f"{type(error).__name__} in {place}"
            told = f"{key}: {str(error)[:200]} {said[:300]}: {about}"
            self.lost[key] = min(self.lost.get(key, told), told, key=len)


def drawn(count, *strategies):
    """A decorator that calls a function with this many draws, the same each time."""

    def decorate(function):
        limits = {"max_examples": count, "database": None, "derandomize": True, "deadline": None}
        phases = {"phases": [Phase.generate], "suppress_health_check": list(HealthCheck)}
        settings(**limits, **phases)(given(*strategies)(function))()

    return decorate


def outcome_of(draws, example, load):
    """Count what loading does: valid settings that work out all that follows from them, or a ParamsError."""
    try:
        p = load()
        assert isinstance(p, Params)
        assert p.key and [p.stage_key(stage) for stage in ("analysis", "extend", "replay")]
        assert p.train_length >= 16 and p.measured_lengths and p.short_length and p.method_slug is not None
    except ParamsError as error:
        draws.count("refused with advice" if str(error).strip() else "lost", example, error)
    except Exception as error:
        draws.count("lost", example, error)
    else:
        draws.count("survived", example)


@pytest.mark.slow
def test_settings_by_name(scale, report):
    draws = Draws("settings by name", report)
    models = st.sampled_from(["llama3", "mistral", "qwen2", "smollm2", "", "no-such-model", "a/b.yaml"])

    @drawn(scale.of("DRAWS", 150, 1200), models, st.sampled_from([None, *SCALES, "x"]), CHANGES)
    def load(model, size, changes):
        changes = {key: value for key, value in changes.items() if key not in ("model", "scale")}
        outcome_of(draws, (model, size, changes), lambda: params.load(model, size, **changes))

    assert not draws.lost, "\n".join(draws.lost.values())


@pytest.mark.parametrize("form", ["values", "lines"])
def test_settings_of_a_file(form, tmp_path, scale, report):
    draws, path = Draws(f"settings of a file, as {form}", report), tmp_path / "own.yaml"
    base = st.sampled_from(["", "scale: mini\nmodel: llama3\ntarget_length: 1024\n", "target_length: 2048\n"])

    @drawn(scale.of("DRAWS", 75, 500), base, CHANGES if form == "values" else LINES)
    def load(begin, changes):
        if form == "values":
            text = begin + yaml.safe_dump(changes, allow_unicode=True)
        else:
            text = begin + "\n".join(f"{key}: {value}" for key, value in changes)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        outcome_of(draws, text, lambda: params.load(str(path)))

    assert not draws.lost, "\n".join(draws.lost.values())


def test_settings_on_the_command_line(tmp_path, monkeypatch, scale, report):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text("scale: mini\nmodel: llama3\ntarget_length: 512\neval_facts: 2\n")
    draws = Draws("settings on the command line", report)

    @drawn(scale.of("COMMANDS", 50, 400), WORDS)
    def start(words):
        arguments = ["check", "--params", str(path), "--gpu-gb", "80", "--host-gb", "100"]
        for key, value in words:
            arguments += ["-p", key, str(value)]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                main(arguments)
        except SystemExit as left:
            is_told = left.code in (1, 2) and said.getvalue().strip() and "Traceback" not in said.getvalue()
            outcome = "refused with advice" if is_told else "lost"
            draws.count(outcome, words, left, said.getvalue())
        except BaseException as error:
            draws.count("lost", words, error)
        else:
            draws.count("survived", words)

    assert not draws.lost, "\n".join(draws.lost.values())
