import argparse
import json
import re
from pathlib import Path
from typing import get_args

import numpy
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from longrecipe.cli.arguments import add_settings, overrides
from longrecipe.data.selection import SELECTIONS
from longrecipe.models.loading import save
from longrecipe.positions import METHODS
from longrecipe.settings import (
    GROUPS,
    SCALES,
    Params,
    ParamsError,
    Setup,
    available,
    changed,
    differences,
    from_notebook,
    group_of,
    load,
    reference,
)
from longrecipe.settings.files import OWN_LENGTHS, TEMPLATES
from longrecipe.settings.memory import Memory
from longrecipe.tokens import SCORES, TYPES
from longrecipe.tokens.ranking import ANCHOR_RULES

FILES = sorted(
    path for scale in SCALES for path in (Path(__file__).resolve().parents[1] / "params" / scale).glob("*.yaml")
)
PROFILES = sorted(FILES[0].parents[1].glob("*/*/*.yaml"))
MINI = next(path for path in FILES if path.parts[-2:] == ("mini", "llama3.yaml"))


def written(folder, text=None, **changes):
    """A params file of one's own: the default run with other values, or any text."""
    path = folder / "own.yaml"
    path.write_text(yaml.dump(yaml.safe_load(MINI.read_text(encoding="utf-8")) | changes) if text is None else text)
    return path


def with_line(folder, key, value):
    """A params file of the default run with a line as it is typed."""
    lines = [line for line in MINI.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{key}:")]
    return written(folder, "\n".join([*lines, f"{key}: {value}"]))


# the settings and their defaults


def test_the_default_run_is_the_default_of_every_setting():
    assert Params() == load("llama3") == load("llama3", "mini")
    assert not any(field.is_required() for field in Params.model_fields.values())


def test_every_setting_is_in_one_group_and_is_described():
    assert [key for group in GROUPS.values() for key in group.model_fields] == list(Params.model_fields)
    assert all(group_of(key) == name for name, group in GROUPS.items() for key in group.model_fields)
    assert all(field.description for field in Params.model_fields.values())
    with pytest.raises(KeyError, match="ratoi"):
        group_of("ratoi")


def test_the_reference_is_current_and_holds_the_defaults():
    path = MINI.parents[1] / "reference.yaml"
    assert path.read_text(encoding="utf-8") == reference(), "run `longrecipe check --reference > params/reference.yaml`"
    assert load(str(path)) == Params()
    assert list(yaml.safe_load(reference())) == list(Params.model_fields)


def test_the_reference_says_what_each_setting_may_be():
    text = " ".join(reference().replace("#", "").split())
    for entry in (
        "Allowed: mini | small | paper scale: mini",
        "Allowed: number (above 0, at most 1) ratio: 0.3",
        "Allowed: null, or whole number (at least 16) probe_window: null",
        "Allowed: true | false fused_loss: false",
        "Allowed: null, or text weights: null",
        "Allowed: null, or list, each item whole number eval_lengths: null",
        "null: T / W, as in the paper. Allowed: null, or number (at least 1) rope_factor: null",
        "---- merge ---- Stage 3: the weighted average",
    ):
        assert entry in text


def test_a_setup_takes_the_memory_settings_of_a_run():
    taken = {"optimizer": "adamw_4bit", "checkpointing": True, "offload_activations": True, "loss_chunk": 64}
    setup = Setup.of(load("llama3", **taken), shards=4)
    assert setup == Setup(**taken, fp32_weights=True, fused_loss=False, shards=4)
    # Only these memory settings are read elsewhere.
    assert Memory.model_fields.keys() - Setup.__annotations__.keys() == {"samples_at_once", "attention"}


# the files that ship


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_file_names_its_model_and_lengths_and_else_only_what_differs(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    params = load(path.stem, path.parent.name)
    assert (params.model, params.scale) == (values["model"], values["scale"]) == (path.stem, path.parent.name)
    assert {"window", "target_length"} <= values.keys()
    template = TEMPLATES[path.parent.name]
    start = Params() if path.stem == template else load(template, path.parent.name)
    found = params.model_dump(mode="json")
    assert {key: found[key] for key in values} == values, "YAML 1.1 reads 1e-3 as a string"
    for key in values.keys() - {"model", "scale", *OWN_LENGTHS}:
        assert values[key] != start.model_dump(mode="json")[key], key
    assert load(str(path)) == params, "by its path as by its name"


def test_available_lists_every_scale():
    found = available()
    assert tuple(found) == SCALES
    assert {(scale, model) for scale in found for model in found[scale]} == {(p.parent.name, p.stem) for p in FILES}


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: f"{p.parts[-3]}-{p.stem}-{p.parent.name}")
def test_a_profile_holds_only_what_differs(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    plain, profiled = (load(path.stem, path.parts[-3], profile=profile) for profile in (None, path.parent.name))
    assert profiled.model_dump(mode="json") == plain.model_dump(mode="json") | values
    assert all(plain.model_dump(mode="json")[key] != value for key, value in values.items()), "what differs, only"


# loading


def test_overrides_win():
    base = load("llama3")
    changed = load("llama3", scale="mini", method="pose", seed=base.seed + 5, target_length=2048)
    assert (changed.method, changed.seed, changed.target_length) == ("pose", base.seed + 5, 2048)
    assert changed.model_dump() == base.model_dump() | {
        "method": "pose",
        "seed": base.seed + 5,
        "target_length": 2048,
    }


@pytest.mark.parametrize("null", [None, "null", "None"])
def test_null_resets_a_key_that_a_file_or_a_profile_sets(tmp_path, null):
    path = written(tmp_path, text_tokens=1000, replay_text="here", eval_lengths=[512], probe_window=600)
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / path.name).write_text("analysis_length: 700\neval_lengths: null\n")
    reset = load(str(path), text_tokens=null, replay_text=null, eval_lengths=null, probe_window=null)
    assert (reset.text_tokens, reset.replay_text, reset.eval_lengths, reset.probe_window) == (None, None, None, 2048)
    assert load(str(path)).eval_lengths == (512,)
    profiled = load(str(path), profile="quick")
    assert (profiled.analysis_length, profiled.eval_lengths) == (700, None)
    assert load(str(path), profile="quick", analysis_length=null).analysis_length is None
    assert load("llama3", "paper", window=null).window == 8192, "from the model's configuration"
    assert load("llama3", scale=null, profile=null) == load("llama3")


@pytest.mark.parametrize("key", ["seed", "ratio", "method", "target_length", "precision", "fused_loss"])
def test_null_is_refused_for_a_key_that_cannot_be_null(key, tmp_path):
    for null in (None, "null"):
        with pytest.raises(ParamsError, match=rf"^{key} = null: cannot be null; .*\n\(settings from"):
            load("llama3", **{key: null})
    with pytest.raises(ParamsError, match=rf"^{key} = null: cannot be null"):
        load(str(written(tmp_path, **{key: None})))


def test_command_line_values_are_read_as_typed():
    parser = argparse.ArgumentParser()
    add_settings(parser)
    words = "-p text 0012 -p text_tokens null -p seed 3 -p ratio 2.5e-1 -p fused_loss false -p eval_lengths [512,1024]"
    given = overrides(parser.parse_args([*words.split(), "-p", "eval_stages", "[base, RoPE rule alone]"]))
    assert given["text"] == "0012" and given["text_tokens"] == "null"
    wanted = {"seed": 3, "ratio": 0.25, "eval_lengths": [512, 1024], "eval_stages": ["base", "RoPE rule alone"]}
    assert load("llama3", **given) == load("llama3", text="0012", **wanted)


def test_the_name_of_the_model_can_be_overridden(tmp_path):
    path = str(written(tmp_path))
    assert load(path, **{"model": "mine"}) == changed(load(path), model="mine")
    assert load("llama3", **{"model": "mine"}).model == "mine"


def test_values_that_papermill_passes_as_text_are_read():
    params = load("llama3", target_length="2048", extend_learning_rate="1e-3", ratio="0.25")
    assert params == load("llama3", target_length=2048, extend_learning_rate=0.001, ratio=0.25)


def test_load_reads_a_file_by_its_path(tmp_path):
    path = written(tmp_path, model="mine", scale="small", seed=11)
    params = load(str(path), seed=12)
    assert (params.model, params.scale, params.seed) == ("mine", "small", 12)
    assert from_notebook({"model": str(path)}).seed == 11
    with pytest.raises(ParamsError, match=r"nowhere\.yaml"):
        load("nowhere.yaml")


def test_a_profile_changes_keys_together_and_overrides_win(tmp_path):
    path = written(tmp_path)
    for name, text in {"quick": "ratio: 0.2\nextend_steps: 3\n", "odd": "ratoi: 0.2\n", "empty": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_text(text)
    (tmp_path / "quick" / "other.yaml").write_text("ratio: 0.9\n")
    # A file's name is no pattern.
    named = path.with_name("o[w]n.yaml")
    named.write_bytes(path.read_bytes())
    with pytest.raises(ParamsError, match=r"profile = 'quick': o\[w\]n\.yaml has none"):
        load(str(named), profile="quick")
    plain, quick = load(str(path)), load(str(path), profile="quick", ratio=0.4)
    assert quick == changed(plain, ratio=0.4, extend_steps=3)
    assert from_notebook({"model": str(path), "profile": "quick"}) == changed(plain, ratio=0.2, extend_steps=3)
    assert from_notebook({"model": str(path), "profile": None}) == plain
    assert load(str(path), profile="null") == plain
    with pytest.raises(ParamsError, match=r"profile = \['quick'\]: of own\.yaml there are"):
        load(str(path), profile=["quick"])
    with pytest.raises(ParamsError, match=r"profile = 'slow': of own\.yaml there are empty, odd, quick\."):
        load(str(path), profile="slow")
    with pytest.raises(ParamsError, match=r"profile = 'cpu': llama3\.yaml has none\."):
        load("llama3", profile="cpu")
    with pytest.raises(ParamsError, match=r"unknown parameter 'ratoi'(.|\n)*own\.yaml, profile odd"):
        load(str(path), profile="odd")
    with pytest.raises(ParamsError, match=r"must hold `key: value` lines"):
        load(str(path), profile="empty")


def test_a_number_such_as_5e_4_is_read_as_a_number(tmp_path):
    path = with_line(tmp_path, "extend_learning_rate", "5e-4")
    assert yaml.safe_load(path.read_text())["extend_learning_rate"] == "5e-4"
    assert load(str(path)).extend_learning_rate == 5e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1, 2\n", r"own\.yaml is not valid YAML(.|\n)*line"),
        ("- seed\n- ratio\n", r"own\.yaml must hold `key: value` lines.*a list"),
        ("seed", r"own\.yaml must hold `key: value` lines.*one value"),
        ("", r"own\.yaml must hold `key: value` lines.*nothing"),
        ("seed: 1\nratio: 0.3\nseed: 2\n", r"own\.yaml has the key seed twice, in lines 1 and 3: remove one"),
        ("seed: {a: 1}\n", r"own\.yaml, line 1: seed must be one value, or a list"),
        ("seed: &a [*a]\n", r"own\.yaml, line 1: seed must be one value, or a list"),
        ("eval_lengths: [512, [1024]]\n", r"own\.yaml, line 1: eval_lengths must be one value, or a list"),
        ("<<: {seed: 1}\n", r"line 1: '<<' cannot be a key"),
        ("1: 2\n", r"line 1: '1' cannot be a key; keys are names"),
        ("seed: 1\ntrue: 2\n", r"line 2: 'true' cannot be a key"),
        ("? [a]\n: 2\n", r"line 1: a list or a mapping cannot be a key"),
        (f"seed: {'9' * 5000}\n", r"line 1: seed = .* cannot be read"),
        ("seed: !!python/name:os.system\n", r"own\.yaml is not valid YAML(.|\n)*line 1"),
        ("out: !!binary aGVsbG8=\n", r"line 1: out must be text, a number, .*; it is bytes"),
        ("seed: *a\n", r"own\.yaml is not valid YAML(.|\n)*undefined alias"),
        (f"seed: {'[' * 5000}\n", r"own\.yaml is not valid YAML"),
        ("a: b\n---\nc: d\n", r"own\.yaml is not valid YAML(.|\n)*single document"),
        (b"seed: \0", r"own\.yaml is not valid YAML"),
        (b"seed: \xff", r"own\.yaml is not valid YAML in UTF-8"),
    ],
    ids=range(20),
)
def test_an_invalid_file_is_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParamsError, match=message):
        load(str(path))


def test_an_unreadable_path_is_refused(tmp_path, monkeypatch):
    (tmp_path / "folder.yaml").mkdir()
    names = {
        "folder.yaml": "is a folder",
        "no\0.yaml": "there is no params file",
        f"{'x' * 300}.yaml": "File name too long",
    }
    for name, told in (names | {"~no-such-user/x.yaml": "is no user"}).items():
        with pytest.raises(ParamsError, match=told):
            load(name if name.startswith("~") else str(tmp_path / name))
    path = written(tmp_path)

    def denied(self, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(ParamsError, match=r"own\.yaml cannot be read \(Permission denied\)"):
        load(str(path))


TEXT_KEYS = ("model", "weights", "text", "replay_text", "text_column", "out", "tagger")


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_a_text_key_takes_numbers_as_text(key, tmp_path):
    assert getattr(load("llama3", **{key: 2024}), key) == "2024", "as papermill passes it"
    assert getattr(load("llama3", **{key: 1.5}), key) == "1.5"
    assert getattr(load("llama3", **{key: "0012"}), key) == "0012", "as a command line passes it"
    for value in ("2024", "0012", "2024-01-01", "1.50", "0x1f", "1_000", ".inf", "'0012'"):
        assert getattr(load(str(with_line(tmp_path, key, value))), key) == value.strip("'")
    for value in (True, [1], {"a": 1}, "", " ", "a\0b", 10**5000):
        with pytest.raises(ParamsError, match=rf"^{key} = "):
            load("llama3", **{key: value})


def test_unknown_keys_in_a_file_are_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"unknown parameter 'merge_wait'.* 'merge_weight'"):
        load(str(written(tmp_path, merge_wait=0.5)))


# files that start from another file


OWN = {"model": "mine", "scale": "small", "window": 512, "target_length": 2048}


def own(folder, **values):
    (folder / "own.yaml").write_text(yaml.dump(values))
    return load(str(folder / "own.yaml"))


def test_a_file_takes_what_it_does_not_name_from_the_template_of_its_scale(tmp_path):
    params, shipped = own(tmp_path, **OWN, extend_steps=3), load("smollm2", "small")
    same = {"optimizer", "extend_learning_rate", "token_types", "n_documents", "eval_haystack", "merge_rule"}
    assert all(getattr(params, name) == getattr(shipped, name) for name in same)
    assert (params.model, params.extend_steps) == ("mine", 3)
    # Lengths in the template belong to its own model.
    assert (params.probe_window, params.probe_length, params.analysis_length) == (1024, 1024, None)
    assert params.measured_lengths == [512, 1024, 2048]
    longer = own(tmp_path, **OWN | {"window": 8192, "target_length": 32768})
    assert (longer.probe_window, longer.probe_length) == (16384, shipped.probe_length)
    with pytest.raises(ParamsError, match="target_length is missing: T, the context window you want"):
        own(tmp_path, **{k: v for k, v in OWN.items() if k != "target_length"})
    with pytest.raises(ParamsError, match="window = 'much'"):
        own(tmp_path, **OWN | {"window": "much"})
    given = own(tmp_path, **OWN, probe_window=600, probe_length=500, analysis_length=700, eval_lengths=[256])
    assert (given.probe_window, given.probe_length, given.analysis_length) == (600, 500, 700)
    assert given.measured_lengths == [256, 512, 2048]


def test_a_file_starts_from_the_shipped_file_of_its_model_and_is_named_by_it_or_by_its_own_name(tmp_path):
    assert own(tmp_path, **{k: v for k, v in OWN.items() if k != "model"}).model == "own"
    paper = own(tmp_path, model="qwen2", scale="paper", target_length=65536)
    assert paper == load("qwen2", "paper", target_length=65536, analysis_length=None), "params/paper/qwen2.yaml"
    assert own(tmp_path, **OWN | {"scale": "paper"}).optimizer == "adamw_8bit", "params/paper/llama3.yaml"
    for scale, told in ((None, "scale is missing"), ("huge", "scale = 'huge'")):
        with pytest.raises(ParamsError, match=rf"{told}(.|\n)*small \(up to 2B\) or paper"):
            own(tmp_path, **OWN | {"scale": scale})


def test_the_window_is_read_from_the_model_if_it_is_null(tmp_path, tiny, tokenizer):
    save(tiny, tokenizer, tmp_path / "model")
    mine = OWN | {"window": None, "weights": str(tmp_path / "model")}
    assert own(tmp_path, **mine).window == tiny.config.max_position_embeddings == 256
    assert load(str(written(tmp_path, window=None))).window == 256
    without = {key: value for key, value in mine.items() if key != "window"}
    assert own(tmp_path, **without).window == 256, "the template's window belongs to another model"
    with pytest.raises(ParamsError, match=r"window is null, and cannot be read from .*nowhere"):
        own(tmp_path, **mine | {"weights": "nowhere"})


def test_the_file_for_your_own_model_is_short_and_valid():
    path = MINI.parents[1] / "own.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(values) <= 12 and values["scale"] == "small"
    assert load(str(path), window=8192).target_length == 32768


def test_an_override_of_scale_wins_but_a_notebook_keeps_the_scale_of_the_file(tmp_path):
    own(tmp_path, **OWN)
    path = str(tmp_path / "own.yaml")
    assert load(path, scale="paper").optimizer == "adamw_8bit" and load(path, scale="paper").scale == "paper"
    assert from_notebook({"model": path, "scale": "mini"}).scale == "small"


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    own(tmp_path, **OWN)
    monkeypatch.chdir(tmp_path)
    assert load("own.yaml").model == "mine"
    with pytest.raises(ParamsError, match=f"there is no params file {re.escape(str(tmp_path / 'other.yaml'))}"):
        load("other.yaml")


# refusals


@pytest.mark.parametrize(("name", "close"), [("ratoi", "ratio"), ("traget_length", "target_length"), ("Seed", "seed")])
def test_unknown_keys_get_a_suggestion(name, close):
    with pytest.raises(ParamsError, match=rf"unknown parameter '{name}'\. Did you mean '{close}'\?") as error:
        load("llama3", **{name: 1})
    assert all(key in str(error.value) for key in Params.model_fields)


def test_unknown_keys_without_a_similar_name_get_only_the_list():
    with pytest.raises(ParamsError, match=r"unknown parameter 'zzz'\. Allowed are model, scale, weights"):
        load("llama3", zzz=1)


def test_errors_list_known_models_scales_and_methods():
    with pytest.raises(ParamsError, match=r"model = 'gpt9' .* scale 'mini'.*mini: .*llama3"):
        load("gpt9")
    with pytest.raises(ParamsError, match=r"scale = 'huge': allowed are mini, small, paper"):
        load("llama3", "huge")
    with pytest.raises(ParamsError, match=f"method = 'nope': allowed are {', '.join(METHODS)}"):
        load("llama3", method="nope")
    with pytest.raises(ParamsError, match="unknown option 'chunks'; allowed are pose:n_chunks=NUMBER"):
        load("llama3", method="pose:chunks=3")
    with pytest.raises(ParamsError, match=r"needs at least 2 chunks\.\n"):
        load("llama3", method="pose:n_chunks=1")


def test_a_method_can_have_options_and_is_part_of_file_names():
    params = load("llama3", method="pose:n_chunks=4")
    assert params.method_slug == "pose-n_chunks-4" and load("llama3").method_slug == "longrecipe"
    assert params.train_length == load("llama3", method="pose").train_length
    assert params.key != load("llama3", method="pose").key
    assert load("llama3", method="cream:sigma=0.5").method_slug == "cream-sigma-0.5"


def test_changed_settings_are_checked():
    base = load("llama3")
    assert changed(base, ratio=0.1, method="pose") == load("llama3", ratio=0.1, method="pose")
    with pytest.raises(ParamsError, match=r"ratio = 1\.7"):
        changed(base, ratio=1.7)
    with pytest.raises(ParamsError, match="unknown parameter 'ratioo'"):
        changed(base, ratioo=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": 1.7}, r"ratio = 1\.7: .*less than or equal to 1 .*length n of a training sample"),
        ({"ratio": 0}, r"ratio = 0: .*greater than 0"),
        ({"ratio": -0.3}, r"ratio = -0\.3: "),
        ({"ratio": float("nan")}, r"ratio = nan: "),
        ({"ratio": "much"}, r"ratio = 'much': .*number"),
        ({"ratio": 0.003}, r"ratio = 0\.003: gives 12 tokens .*ratio >= 0\.0039"),
        ({"seed": -1}, r"seed = -1: "),
        ({"seed": 2**32}, r"seed = 4294967296: .*less than 4294967296"),
        ({"seed": True}, r"seed = True: .*not true or false"),
        ({"seed": "1" * 6000}, r"seed = '1{199}\.\.\.: "),
        ({"seed": 10**5000}, r"seed = \(a value of type int, too long to show\): "),
        ({"target_length": 10**400}, r"target_length = 10+\.\.\.: is too large"),
        ({"target_length": "9" * 20}, r"target_length = '9+': is too large"),
        ({"rope_factor": float("inf")}, r"rope_factor = inf: .*finite"),
        ({"extend_learning_rate": "1e400"}, r"extend_learning_rate = '1e400': .*finite"),
        ({"method": "a: b: c"}, r"method = 'a: b: c': allowed are longrecipe"),
        ({"eval_lengths": "[512"}, r"eval_lengths = '\[512': is not a list, such as \[a, b\]"),
        ({"eval_lengths": "512"}, r"eval_lengths = '512': is not a list"),
        ({"eval_lengths": "[" * 5000}, r"eval_lengths = .*is not a list"),
        ({"eval_lengths": f"[{'9' * 5000}]"}, r"eval_lengths = .*is not a list"),
        (
            {"eval_lengths": [512, 8192, 9000]},
            r"eval_lengths = \[512, 8192, 9000\]: 8192 is above target_length = 4096",
        ),
        ({"seed": 1.5}, r"seed = 1\.5: .*integer"),
        ({"merge_weight": 1.01}, r"merge_weight = 1\.01: .*weight of the original"),
        ({"precision": "fp8"}, r"precision = 'fp8': .*'auto', 'bf16' or 'fp32'"),
        ({"target_length": 256, "window": 256}, r"target_length = 256: must exceed window = 256"),
        ({"window": 256, "probe_window": 256}, r"probe_window = 256: must exceed window = 256"),
        ({"window": 256, "analysis_length": 256}, r"analysis_length = 256: must exceed window = 256"),
        ({"rope_factor": 0.5}, r"rope_factor = 0\.5: .*raises the RoPE base"),
        ({"eval_documents": 1}, r"eval_documents = 1: "),
        ({"eval_documents": 10**9}, r"eval_documents = 1000000000: .*less than or equal to 100000"),
        ({"eval_passkeys": 10**9}, r"eval_passkeys = 1000000000: .*less than or equal to 100000"),
        ({"eval_lengths": [512, 8]}, r"eval_lengths = \[512, 8\]: 8 is too short, at least 128"),
        ({"eval_lengths": []}, r"eval_lengths = \[\]: "),
        ({"eval_stages": ["base", "H'"]}, r"eval_stages.1 = \"H'\": .*'RoPE rule alone'"),
        ({"eval_steps": "10"}, r"eval_steps = '10': is not a list"),
        ({"eval_steps": []}, r"eval_steps = \[\]: "),
        (
            {"eval_steps": [10, 41]},
            r"eval_steps = \[10, 41\]: stage 1 has no step 41; allowed are 0 .*extend_steps = 40",
        ),
        ({"eval_steps": [-1]}, r"eval_steps = \[-1\]: stage 1 has no step -1"),
        ({"eval_longppl": -1}, r"eval_longppl = -1: "),
        ({"replay_length": 33}, r"replay_length = 33: at least 40 at scale mini"),
        ({"replay_length": 300}, r"replay_length = 300: .* at most window = 256 tokens"),
        ({"extend_schedule": "nope"}, r"extend_schedule = 'nope': .*'linear'.*'cosine'"),
        ({"replay_schedule": "nope"}, r"replay_schedule = 'nope': .*'linear'.*'cosine'"),
        ({"n_documents": 4, "extend_batch_size": 8}, r"n_documents = 4: .*extend_batch_size = 8"),
        (
            {"analysis_documents": 9, "analysis_top_share": 0.05},
            r"analysis_top_share = 0\.05: .*analysis_documents = 9",
        ),
        ({"probe_length": 513}, r"probe_length = 513: at most probe_window = 512"),
        ({"probe_length": 8}, r"probe_length = 8: .*greater than or equal to 16 .*null: probe_window"),
        ({"analysis_length": 8}, r"analysis_length = 8: .*null: probe_window"),
        ({"analysis_score": "loss"}, r"analysis_score = 'loss': .*'logit' or 'logprob'"),
        ({"token_types": "word"}, r"token_types = 'word': .*'class', 'pos' or 'token'"),
        ({"anchor_rule": "sum"}, r"anchor_rule = 'sum': .*'lift' or 'share'"),
        ({"anchor_count": 0}, r"anchor_count = 0: "),
        ({"selection": "last"}, r"selection = 'last': .*'anchored', 'density', 'shift', 'random' or 'first'"),
        ({"extend_steps": 0}, r"extend_steps = 0: "),
        ({"replay_long_share": 1.0}, r"replay_long_share = 1\.0: .*paper: 0"),
        ({"fused_loss": True, "replay_kl_weight": 2.0}, r"fused_loss = True with replay_kl_weight = 2\.0: "),
        (
            {"fused_loss": True, "checkpointing": False, "offload_activations": True, "replay_kl_weight": 0},
            r"offload_activations = True: .* set checkpointing as well\.\n\(settings from llama3\.yaml\)",
        ),
        ({"keep_attention": True}, r"keep_attention = True: without checkpointing, everything is kept"),
        (
            {"keep_attention": True, "checkpointing": True, "attention": "eager"},
            r"keep_attention = True with attention = 'eager': .* set attention to auto",
        ),
        ({"optimizer": "sgd"}, r"optimizer = 'sgd': .*'adamw_fp32', 'adamw_bf16'"),
        ({"samples_at_once": 0}, r"samples_at_once = 0: "),
        ({"replay_kl_weight": -0.5}, r"replay_kl_weight = -0\.5: .*greater than or equal to 0 .*paper: 0"),
    ],
)
def test_invalid_values_are_refused_with_name_and_value(changes, message):
    with pytest.raises(ParamsError, match=message):
        load("llama3", **{"target_length": 4096, "window": 256, "probe_window": 512} | changes)


def test_allowed_values_match_the_library():
    for name, known in {
        "analysis_score": SCORES,
        "token_types": TYPES,
        "anchor_rule": ANCHOR_RULES,
        "selection": tuple(SELECTIONS),
    }.items():
        assert get_args(Params.model_fields[name].annotation) == known, name


def test_analysis_lengths_follow_the_target_and_are_refused_above_it():
    assert load("llama3").probe_window == load("llama3", target_length=2560).probe_window == 2048, "8 W at scale mini"
    assert load("llama3", target_length=1024).probe_window == 1024
    assert load("smollm2", "small").probe_window == load("llama3", "paper").probe_window == 16384, "2 W"
    assert load("smollm2", "small", target_length=12288).probe_window == 12288
    for name in ("probe_window", "analysis_length"):
        with pytest.raises(ParamsError, match=rf"{name} = 2048: at most target_length = 1024; set it to null"):
            load("llama3", target_length=1024, **{name: 2048})
    assert load("smollm2", "small", target_length="12000").analysis_length == 12000, "the file's is 12288"
    # Lengths that a run was loaded with follow as well.
    shorter = changed(load("llama3", probe_length=1500, analysis_length=2000), target_length=1024)
    assert (shorter.probe_window, shorter.probe_length, shorter.analysis_length) == (1024, 1024, 1024)


def test_eval_lengths_above_a_shorter_target_are_dropped_and_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    path = written(tmp_path, eval_lengths=[512, 1024, 3000])
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / path.name).write_text("target_length: 1024\n")
    assert load(str(path)).eval_lengths == (512, 1024, 3000) and not caplog.text
    found = [
        load(str(path), target_length="1024"),
        load(str(path), profile="short"),
        from_notebook({"model": str(path), "target_length": 1024}),
        changed(load(str(path)), target_length=1024),
    ]
    assert len(set(found)) == 1 and found[0].eval_lengths == (512, 1024) and found[0].probe_window == 1024
    assert caplog.text.count("eval_lengths: [3000] not measured, above target_length = 1024") == 4
    assert load(str(path), target_length=500).eval_lengths is None
    with pytest.raises(ParamsError, match="3000 is above target_length = 1024"):
        load(str(path), target_length=1024, eval_lengths=[512, 3000])
    with pytest.raises(ParamsError, match="3000 is above target_length = 2048"):
        load(str(written(tmp_path, target_length=2048, eval_lengths=[512, 3000])))


def test_analysis_lengths_may_be_null_or_shorter():
    for probe, analysis in ((None, None), (16, 272), (512, 512), (512, 1024)):
        params = load("llama3", probe_window=512, probe_length=probe, analysis_length=analysis)
        assert (params.probe_length, params.analysis_length) == (probe, analysis)


def test_one_error_names_all_invalid_values():
    with pytest.raises(ParamsError) as error:
        load("llama3", ratio=1.7, seed=-1, nope=3)
    assert all(part in str(error.value) for part in ("ratio = 1.7", "seed = -1", "'nope'", "llama3.yaml"))


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-8, max_value=5000),
    st.sampled_from([10**400, 10**5000, 2**32, -1, 0]),
    st.floats(),
    st.text(max_size=8),
    st.text("0123456789.e-+[]{}:,&*!? anulx\0\n'\"", max_size=12),
    st.sampled_from(["null", "None", "true", "[512, 1024]", "[base, merged]", "pose:n_chunks=3", "a: b: c", "1e400"]),
    st.binary(max_size=4),
    st.dates(),
    st.lists(st.one_of(st.integers(0, 5000), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.builds(object),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*Params.model_fields, "profile", "ratoi"]), ODD, min_size=1, max_size=4))
def test_any_settings_give_params_or_a_params_error(values):
    try:
        params = load("llama3", **values)
    except ParamsError as error:
        assert len(str(error)) < 20_000
    else:
        assert Params(**json.loads(json.dumps(params.model_dump()))) == params and params.measured_lengths


# the notebook's namespace


PARAMETERS = "model = 'llama3'  # a model\nscale = 'mini'\nmethod = None\nseed = None\n"
FIRST = """import numpy as np
from pathlib import Path
from longrecipe import settings as params
from longrecipe.data import facts
P = params.from_notebook(globals())"""


def test_from_notebook_in_a_real_shell(shell):
    space = shell(PARAMETERS, "# Parameters\nmethod = 'rpes'\nratio = 0.2\n", FIRST, "1 + 1")
    assert {"In", "Out", "get_ipython", "_", "np", "Path"} <= set(space)
    assert space["P"] == load("llama3", method="rpes", ratio=0.2)


def test_the_settings_cell_can_run_again_after_changes(shell):
    shell("P = grid = foo = window = 3; seconds, parts = 4, [1]\ndef ratio(): pass", PARAMETERS, FIRST)
    assert shell(FIRST)["P"] == load("llama3")
    # Edited and run again; a value changed by itself; other variables with it.
    assert shell(PARAMETERS.replace("None", "7"), "method = 'pose'", FIRST)["P"] == load(
        "llama3", method="pose", seed=7
    )
    assert shell("model = 'qwen2'", FIRST)["P"] == load("qwen2", method="pose", seed=7)
    assert shell("x = 1; model = 'llama3'; foo = 3", FIRST)["P"] == load("llama3", method="pose", seed=7)
    # A key that is not in the cell is the user's own variable; in the cell it is a setting.
    assert shell("ratio = 0.5; target_length = 'x'", FIRST)["P"].ratio == 0.3
    assert shell(f"{PARAMETERS}ratio = 0.5\n", FIRST)["P"] == load("llama3", ratio=0.5)
    with pytest.raises(SyntaxError):
        shell("for seed in range(3): pass", "this is no Python")
    assert shell("%who", FIRST)["P"].seed == 2
    assert shell(f"{PARAMETERS}{FIRST}\nfoo = P", f"{PARAMETERS}{FIRST}\nfoo = P")["P"] == load("llama3", ratio=0.5)


@pytest.mark.slow
def test_settings_of_another_notebook_in_the_kernel_do_not_count(shell):
    other = "model = 'mistral'; scale = 'mini'; target_length = 1024; ratio = 0.9; seed = 5; gpu = 'H100'"
    assert shell(other, PARAMETERS, FIRST)["P"] == load("llama3")
    assert shell("%reset -f", PARAMETERS, FIRST)["P"] == load("llama3")
    # A part of the cell, run by itself, leaves the rest as it is.
    shell(PARAMETERS.replace("method = None", "method = 'pose'"), "model = 'qwen2'; scale = 'mini'; seed = 2")
    assert shell(FIRST)["P"] == load("qwen2", method="pose", seed=2)


def test_a_misspelt_name_in_the_parameters_cell_is_refused(shell):
    shell(PARAMETERS, "from longrecipe import settings")
    with pytest.raises(ParamsError, match=r"'traget_length'\. Did you mean 'target_length'"):
        from_notebook(shell(f"{PARAMETERS}traget_length = 512"))
    assert from_notebook(shell(f"{PARAMETERS}target_length = 512")).target_length == 512


def test_names_set_by_papermill_are_settings_and_none_is_null(shell, tmp_path):
    path = written(tmp_path, text_tokens=1000, seed=3)
    cell = PARAMETERS.replace("llama3", str(path))
    found = from_notebook(shell(cell, "# Parameters\ntext_tokens = None\nseed = None\nratio = 0.4\n", "foo = 3"))
    assert (found.text_tokens, found.seed, found.ratio) == (None, 3, 0.4), (
        "for names of the parameters cell, None means the file's value"
    )
    with pytest.raises(ParamsError, match="unknown parameter 'foo'"):
        from_notebook(shell("# Parameters\nfoo = 3\n"))


def test_the_parameters_cell_must_have_run(shell):
    with pytest.raises(ParamsError, match="model is not set: run the notebook's parameters cell"):
        from_notebook(shell("foo = 3"))


def test_a_cache_that_cannot_be_written_stops_the_settings_cell(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match=r"cache \(\$LONGRECIPE_CACHE\): no files can be written to"):
        from_notebook({"model": "llama3"})


def test_without_a_history_all_plain_values_are_settings():
    namespace = {
        "__name__": "__main__",
        "__builtins__": __builtins__,
        "_": 42,
        "_i1": "seed = 3",
        "_dh": [Path()],
        "In": ["", "seed = 3"],
        "Out": {1: 42},
        "open": open,
        "exit": object(),
        "quit": object(),
        "get_ipython": lambda: None,
        "np": numpy,
        "Path": Path,
        "from_notebook": from_notebook,
        "model": "llama3",
        "seed": 3,
        "ratio": None,
    }
    before = dict(namespace)
    assert from_notebook(namespace) == load("llama3", seed=3)
    assert namespace == before
    with pytest.raises(ParamsError, match=r"ratio = 1\.7"):
        from_notebook(namespace | {"ratio": 1.7})
    with pytest.raises(ParamsError, match="scale = 'huge'"):
        from_notebook(namespace | {"scale": "huge"})


# what follows from the settings


def test_settings_are_frozen():
    params = load("llama3")
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 9


def test_different_settings_have_different_keys():
    base = load("llama3")
    assert base.key == load("llama3").key
    others = {
        "method": "pose",
        "seed": base.seed + 1,
        "ratio": base.ratio / 2,
        "rope_factor": 3.0,
        "target_length": 2 * base.target_length,
        "extend_steps": base.extend_steps + 1,
        "merge_weight": base.merge_weight / 2 + 0.1,
        "eval_facts": base.eval_facts + 1,
    }
    keys = {base.key} | {load("llama3", **{name: value}).key for name, value in others.items()}
    assert len(keys) == len(others) + 1
    assert all(re.fullmatch(r"[0-9a-f]{10}", key) for key in keys)


def test_a_changed_default_changes_the_key():
    class Later(Params):
        merge_weight: float = 0.75
        probe_steps: int = 5

    base = Params()
    assert Params(merge_weight=base.merge_weight, probe_steps=base.probe_steps).key == base.key
    assert Later(**base.model_dump()).key == base.key and Later(**base.model_dump()).stage_key("analysis")
    # With another default, a run that names no value is another run.
    assert Later().key != base.key and Later().stage_key("analysis") != base.stage_key("analysis")
    assert changed(base, out="somewhere").key == base.key, "the folder of the export does not change the model"
    assert changed(base, report_to="wandb").key == base.key, "the tracker does not change the model"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_setting_changes_the_keys_of_the_stages_that_read_its_group():
    base = Params()
    read = {
        "run": STAGES,
        "text": STAGES,
        "memory": STAGES,
        "analysis": STAGES,
        "merge": (),
        "measure": (),
        "bench": (),
    }
    read |= {"extend": ("extend", "replay"), "replay": ("replay",)}
    for name in Params.model_fields.keys() - {"out", "report_to"}:
        other = base.model_copy(update={name: "another value"})
        assert tuple(stage for stage in STAGES if other.stage_key(stage) != base.stage_key(stage)) == tuple(
            read[group_of(name)]
        ), name


STAGES = ("analysis", "extend", "replay")


@pytest.mark.parametrize(
    ("stages", "changes"),
    [
        ((), {"merge_weight": 0.9, "merge_rule": "uniform", "eval_documents": 9, "eval_facts": 2}),
        (
            ("replay",),
            {
                "replay_steps": 9,
                "replay_batch_size": 9,
                "replay_learning_rate": 0.5,
                "replay_schedule": "constant",
                "replay_long_share": 0.9,
                "replay_kl_weight": 0.5,
                "replay_fact_share": 0.9,
            },
        ),
        (
            ("extend", "replay"),
            {
                "method": "pose",
                "target_length": 8192,
                "ratio": 0.9,
                "rope_factor": 9.0,
                "token_types": "pos",
                "anchor_count": 9,
                "selection": "random",
                "n_documents": 99,
                "extend_steps": 99,
                "extend_learning_rate": 0.5,
            },
        ),
        (
            STAGES,
            {
                "seed": 9,
                "precision": "bf16",
                "window": 128,
                "warmup_steps": 9,
                "save_steps": 9,
                "probe_window": 4096,
                "probe_length": 64,
                "probe_steps": 9,
                "analysis_documents": 99,
                "analysis_length": 999,
            },
        ),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, tuple) else "",
)
def test_a_stage_key_depends_only_on_what_the_stage_reads(stages, changes):
    base = load("llama3")
    for name, value in changes.items():
        other = changed(base, **{name: value})
        assert other.key != base.key
        found = tuple(stage for stage in STAGES if other.stage_key(stage) != base.stage_key(stage))
        assert found == stages, name


def test_stage_keys_have_ten_characters_and_unknown_stages_are_refused():
    keys = {load("llama3").stage_key(stage) for stage in STAGES}
    assert len(keys) == 3 and all(re.fullmatch(r"[0-9a-f]{10}", key) for key in keys)
    with pytest.raises(KeyError, match="merge"):
        load("llama3").stage_key("merge")


@pytest.mark.parametrize(
    ("window", "target", "lengths"),
    [
        (256, 4096, [256, 512, 1024, 2048, 4096]),
        (256, 512, [256, 512]),
        (256, 300, [256, 300]),
        (256, 1500, [256, 512, 1024, 1500]),
        (8192, 131072, [8192, 16384, 32768, 65536, 131072]),
    ],
)
def test_eval_lengths_double_from_window_to_target(window, target, lengths):
    params = load("llama3", window=window, target_length=target, probe_window=window + 16)
    assert params.measured_lengths == lengths


def test_measured_lengths_are_eval_lengths_with_window_and_target():
    params = load("llama3", target_length=1500, eval_lengths=[600, 128, 1500, 600])
    assert params.measured_lengths == [128, 256, 600, 1500]
    # A list typed on a command line gives equal settings.
    assert len({params, load("llama3", target_length=1500, eval_lengths="[600, 128, 1500, 600]")}) == 1


def test_replay_samples_have_the_window_or_replay_length():
    assert (load("llama3").short_length, load("llama3", replay_length=64).short_length) == (256, 64)


@pytest.mark.parametrize("method", METHODS)
def test_train_length_is_a_share_of_the_target_or_all_of_it(method):
    params = load("llama3", method=method, target_length=4096, ratio=0.3)
    assert params.train_length == (4096 if method == "flt" else 1228)
    # flt reads whole documents, so a ratio that is too small for other methods is allowed.
    if method == "flt":
        assert load("llama3", method=method, ratio=0.001).train_length == params.target_length


def test_differences_name_what_the_paper_states_otherwise():
    found = differences(load("llama3"))
    assert found.loc["merge_weight", ["here", "paper (quoted)"]].tolist() == ["0.25", "0.5"]
    assert list(found.index[:4]) == ["replay_long_share", "replay_kl_weight", "merge_weight", "merge_rule"]
    # A table in a notebook cuts longer texts.
    assert found["why"].str.len().max() <= 50
    paper = differences(load("llama3", "paper"))
    assert list(paper.index) == ["token_types", "anchor_rule", "n_documents"]
    other = load("llama3", "paper", token_types="pos", anchor_rule="share", n_documents=10_000, method="pose")
    assert list(differences(other).index) == ["method"]


def test_measuring_more_keeps_the_names_of_runs_and_stages():
    plain = load("llama3")
    assert load("llama3", eval_longppl=0).key == plain.key
    asked = load("llama3", eval_steps="[20, 10, 20]")
    assert asked.eval_steps == (10, 20) and asked.key == load("llama3", eval_steps=[10, 20]).key
    # Runs with other scores have other names, but share what is trained.
    assert asked.key not in (plain.key, load("llama3", eval_steps=[10]).key)
    assert all(asked.stage_key(stage) == plain.stage_key(stage) for stage in ("analysis", "extend", "replay"))
