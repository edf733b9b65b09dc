"""Exports: the base's own files at the new length, readable by transformers, all or nothing."""

import json
import logging
import os
import shutil
import stat
from pathlib import Path

import model_cases as cases
import pytest
import torch
import yaml
from model_cases import KINDS, SPECIAL, TARGET, TEMPLATE, TEXT, WINDOW
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import longrecipe.recipe.export as module
from longrecipe import models
from longrecipe.merge import MergeError, merge
from longrecipe.models.rope import ntk_base
from longrecipe.recipe.check_export import check_export
from longrecipe.recipe.export import ExportError, check_out, export
from longrecipe.system.paths import mini_model_dir, root

TEXTS = {"text": "abc"}


@pytest.fixture
def made(tmp_path):
    """A function that makes a base of a kind, lets `change` edit its folder, and exports it: (base, export)."""

    def make(kind="llama", change=lambda folder: None, **changes):
        base = cases.base(tmp_path / "base", kind, **changes)
        change(base)
        params = cases.settings(base, tmp_path / "out")
        return base, export(params, cases.stage(base, tmp_path / "stage"), TEXTS)

    return make


def read(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def dtypes_and_files(folder):
    """Which file holds each tensor, and its dtype."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: (path.name, file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    return found


# what a reader finds


@pytest.mark.parametrize("kind", KINDS)
def test_all_architectures_load_at_the_new_length(kind, made, tmp_path):
    messages = logging.Handler(level=logging.WARNING)
    told = []
    messages.emit = lambda record: told.append(record.getMessage())
    base, out = made(kind)
    logging.getLogger("transformers").addHandler(messages)
    try:
        network, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        tokenizers = [AutoTokenizer.from_pretrained(out), PreTrainedTokenizerFast.from_pretrained(out)]
    finally:
        logging.getLogger("transformers").removeHandler(messages)
    assert told == [] and not any(info.values())
    measured = models.load(merge(base, tmp_path / "stage", tmp_path / "measured"))
    x = (torch.arange(int(0.9 * TARGET)) * 7 % 300)[None]
    with torch.inference_mode():
        assert torch.equal(network(input_ids=x).logits, measured(input_ids=x).logits)
        # The stage's weights and RoPE are other ones, and its own window is not enough: the comparison can fail.
        assert not torch.allclose(network(input_ids=x).logits, models.load(base)(input_ids=x).logits, atol=0.1)
    for tokenizer in tokenizers:
        assert tokenizer.model_max_length == TARGET
        assert len(tokenizer(TEXT * 200, truncation=True)["input_ids"]) == TARGET
    assert tokenizers[1](TEXT)["input_ids"] == cases.tokenizer()(TEXT)["input_ids"]
    said = network.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=3, do_sample=False)
    assert x.shape[1] < said.shape[1] <= x.shape[1] + 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_rope_is_written_for_old_and_new_readers(kind, made):
    base, out = made(kind)
    written, before = read(out), read(base)
    share = {"phi": 0.5, "stablelm": 0.5, "gptneox": 0.5}.get(kind, 1)
    width = written.get("head_dim", 8)
    theta = ntk_base(
        before["rope_parameters"]["rope_theta"], head_dim=int(share * width), window=WINDOW, target_length=TARGET
    )
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == theta
    assert written["rope_parameters"]["rope_type"] == "default"
    assert written.get("partial_rotary_factor", 1) == share
    if kind == "gptneox":
        assert (written["rotary_emb_base"], written["rotary_pct"]) == (theta, share)
    assert written["dtype"] == written["torch_dtype"] == "float32" and written["max_position_embeddings"] == TARGET
    # Everything else is the base's.
    new = {"rope_theta", "rope_parameters", "partial_rotary_factor", "rotary_emb_base", "rotary_pct"}
    new |= {"torch_dtype", "max_position_embeddings"}
    assert {k: v for k, v in written.items() if k not in new} == {k: v for k, v in before.items() if k not in new}


def test_old_configuration_keeps_its_form_and_gets_the_new_one(made):
    def change(base):
        cases.old_style(base, use_cache=False, n_positions=WINDOW, max_length=WINDOW, seq_length=WINDOW)
        # transformers then reads max_length from the configuration.
        (base / "generation_config.json").unlink()

    base, out = made(change=change)
    written, before = read(out), read(base)
    assert before["rope_theta"] == 5.0e5 and written["rope_theta"] == ntk_base(
        5.0e5, head_dim=8, window=WINDOW, target_length=TARGET
    )
    assert written["rope_parameters"] == {"rope_type": "default", "rope_theta": written["rope_theta"]}
    assert written["rope_scaling"] is None and written["transformers_version"] == "4.43.0"
    assert written["torch_dtype"] == written["dtype"] == "float32" and written["use_cache"] is False
    assert {written[key] for key in ("n_positions", "max_length", "seq_length", "max_position_embeddings")} == {TARGET}
    network = AutoModelForCausalLM.from_pretrained(out)
    assert network.config.rope_parameters["rope_theta"] == written["rope_theta"]
    assert network.generation_config.max_length == TARGET


@pytest.mark.parametrize("scaling", [{"type": "default"}, {"rope_type": "default", "rope_theta": 5.0e5}])
def test_scaling_without_effect_does_not_keep_the_old_rope_base(scaling, made):
    _, out = made(change=lambda base: cases.old_style(base, rope_scaling=scaling))
    theta = ntk_base(5.0e5, head_dim=8, window=WINDOW, target_length=TARGET)
    assert AutoConfig.from_pretrained(out).rope_parameters["rope_theta"] == read(out)["rope_theta"] == theta


def test_base_without_rope_settings_gets_them(made):
    # As files of transformers 4 whose base was the default of its class.
    drop = ("rope_parameters", "dtype", "tie_word_embeddings")
    _, out = made("phi", lambda base: cases.edit_json(base / "config.json", drop=drop))
    written = read(out)
    assert (
        written["rope_theta"] == ntk_base(1.0e4, head_dim=4, window=WINDOW, target_length=TARGET)
        and written["partial_rotary_factor"] == 0.5
    )
    assert "dtype" not in written and "torch_dtype" not in written


def test_paths_and_code_of_the_base_are_left_out(made):
    leaks = {"_name_or_path": "/home/me/base", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}

    def change(base):
        cases.edit_json(base / "config.json", **leaks)
        cases.edit_json(base / "tokenizer_config.json", is_local=True, local_files_only=True, **leaks)

    base, out = made(change=change)
    for name in ("config.json", "tokenizer_config.json", "longrecipe.json", "README.md"):
        text = (out / name).read_text()
        assert not any(word in text for word in ("/home", "auto_map", "is_local", "local_files_only", str(base.parent)))


# weights


def test_dtype_and_shards_are_those_of_the_base(made, tmp_path):
    base, out = made(dtype=torch.bfloat16, shard="20KB")
    assert len({*dtypes_and_files(base).values()}) > 2 and dtypes_and_files(out) == dtypes_and_files(base)
    index = "model.safetensors.index.json"
    assert read(out, index) == read(base, index) and read(out)["dtype"] == read(out)["torch_dtype"] == "bfloat16"
    # Merged in float32, then rounded once.
    exact = models.load(merge(base, tmp_path / "stage", tmp_path / "exact")).state_dict()
    rounded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(tensor.dtype == torch.bfloat16 for tensor in rounded.values())
    assert all(torch.equal(rounded[name], tensor.to(torch.bfloat16)) for name, tensor in exact.items())
    assert any((rounded[name] != tensor).any() for name, tensor in exact.items())


def test_mixed_dtypes_stay_mixed(made):
    def change(base):
        tensors = cases.load_file(base / "model.safetensors")
        tensors = {k: v if "norm" in k else v.to(torch.float16) for k, v in tensors.items()}
        cases.save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    base, out = made(change=change)
    found = dtypes_and_files(out)
    assert found == dtypes_and_files(base) and {dtype for _, dtype in found.values()} == {"F16", "F32"}


def test_tied_heads_and_padded_vocabularies_are_kept(made, tmp_path):
    base, out = made(tie_word_embeddings=True, vocab_size=384)
    network = AutoModelForCausalLM.from_pretrained(out)
    assert network.lm_head.weight is network.model.embed_tokens.weight and len(network.lm_head.weight) == 384
    assert dtypes_and_files(out).keys() == dtypes_and_files(base).keys()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]),
        ("gptneox", [f"gpt_neox.layers.0.attention.{each}" for each in ("bias", "masked_bias", "rotary_emb.inv_freq")]),
    ],
)
def test_buffers_of_old_checkpoints_are_left_out(kind, names, made):
    base, out = made(kind, lambda folder: cases.add_tensors(folder, names))
    assert dtypes_and_files(base).keys() - dtypes_and_files(out).keys() == {*names}
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())


def test_other_tensors_that_only_the_base_has_are_an_error(tmp_path):
    base = cases.base(tmp_path / "base")
    stage = cases.stage(base, tmp_path / "stage")
    cases.add_tensors(base, ["model.layers.0.self_attn.bias", "model.extra.weight"])
    with pytest.raises(MergeError, match=r"model\.extra\.weight, model\.layers\.0\.self_attn\.bias only in"):
        export(cases.settings(base, tmp_path / "out"), stage, TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "stage"}


# small files


def test_generation_settings_and_licence_are_those_of_the_base(made):
    generation = {"bos_token_id": 0, "eos_token_id": [0, 2], "do_sample": True, "temperature": 0.6}

    def change(base):
        (base / "generation_config.json").write_text(json.dumps(generation | {"max_length": WINDOW}))
        for name in ("LICENSE", "USE_POLICY.md", "Notice.txt"):
            (base / name).write_text(f"This is {name}.\n")

    _, out = made(change=change)
    assert read(out, "generation_config.json") == generation | {"max_length": TARGET}
    for name in ("LICENSE", "USE_POLICY.md", "Notice.txt"):
        assert (out / name).read_text() == f"This is {name}.\n"
    network, x = AutoModelForCausalLM.from_pretrained(out), torch.ones(1, int(0.9 * TARGET), dtype=torch.int64)
    # Without a number of new tokens, generate goes by max_length.
    assert x.shape[1] < network.generate(x, attention_mask=torch.ones_like(x)).shape[1] <= TARGET


def test_base_without_generation_settings_gets_none(made):
    _, out = made(change=lambda base: (base / "generation_config.json").unlink())
    assert not (out / "generation_config.json").exists()


def test_only_model_tokenizer_and_licence_are_copied(made):
    extra = ["pytorch_model.bin", "optimizer.pt", "trainer_state.json", "training_args.bin", "modeling_own.py"]
    extra += ["model.gguf", "license.pkl", "README.md", ".gitattributes", "notes.txt", "consolidated.safetensors"]

    def change(base):
        for name in extra:
            (base / name).write_text("no")
        (base / "original").mkdir()
        (base / "original" / "tokenizer.model").write_text("no")
        for name in ("tokenizer.model", "tokenizer.model.v3", "merges.txt", "vocab.json", "qwen.tiktoken"):
            (base / name).write_text(f"own {name}")
        (base / "linked.jinja").symlink_to(base / "chat_template.jinja")

    base, out = made(change=change)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "linked.jinja",
        "longrecipe.json",
        "merges.txt",
        "model.safetensors",
        "qwen.tiktoken",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "tokenizer_config.json",
        "vocab.json",
    }
    assert (out / "README.md").read_text() != "no" and not (out / "linked.jinja").is_symlink()
    for name in ("tokenizer.json", "tokenizer.model.v3", "vocab.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_file_modes_follow_the_umask(umask, made):
    before = os.umask(umask)
    try:
        _, out = made(shard="20KB")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o666 & ~umask}
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask


def test_chat_templates_are_kept_in_all_forms(made):
    def change(base):
        (base / "chat_template.jinja").unlink()
        cases.edit_json(base / "tokenizer_config.json", chat_template=TEMPLATE)
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "rag.jinja").write_text("rag")

    _, out = made(change=change)
    tokenizer = AutoTokenizer.from_pretrained(out)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], chat_template=TEMPLATE, tokenize=False)
    assert said == "<|im_start|>user\nHi<|im_end|>\n"
    assert read(out, "tokenizer_config.json")["chat_template"] == TEMPLATE
    assert (out / "additional_chat_templates" / "rag.jinja").read_text() == "rag"


def _without_settings(base):
    (base / "tokenizer_config.json").unlink()


def _without_length(base):
    cases.edit_json(base / "tokenizer_config.json", drop=("model_max_length",))


def _without_limit(base):
    cases.edit_json(base / "tokenizer_config.json", model_max_length=1000000000000000019884624838656)


def _cut_in_the_tokenizer(base):
    cut = {"direction": "Right", "max_length": WINDOW, "strategy": "LongestFirst", "stride": 0}
    cases.edit_json(base / "tokenizer.json", truncation=cut)
    cases.edit_json(base / "tokenizer_config.json", max_length=WINDOW)


@pytest.mark.parametrize("change", [_without_settings, _without_length, _without_limit, _cut_in_the_tokenizer])
def test_all_tokenizers_truncate_at_the_new_length(change, made):
    _, out = made(change=change)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    assert len(tokenizer(TEXT * 200, truncation=True)["input_ids"]) == TARGET
    assert len(tokenizer.backend_tokenizer.encode(TEXT * 200).ids) >= TARGET
    assert (read(out, "tokenizer.json")["truncation"] or {"max_length": TARGET})["max_length"] == TARGET


def test_special_tokens_are_those_of_the_base(made):
    _, out = made(change=lambda base: cases.edit_json(base / "tokenizer_config.json", extra_special_tokens=SPECIAL[1:]))
    # transformers 4 cannot read a list of that name; both read the older name.
    assert "extra_special_tokens" not in read(out, "tokenizer_config.json")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert {*tokenizer.all_special_tokens} == {*SPECIAL} and tokenizer.eos_token == SPECIAL[0]
    assert tokenizer.decode([1, 70, 2], skip_special_tokens=True) == tokenizer.decode([70])


# the fresh process


@pytest.mark.slow
def test_fresh_process_agrees_with_the_measured_model(made, tmp_path, warm_children):
    base, out = made(dtype=torch.bfloat16)
    measured = models.load(merge(base, tmp_path / "stage", tmp_path / "measured"))
    tokenizer = models.load_tokenizer(base)
    found = check_export(out, measured, tokenizer, prompt=TEXT * 4, n_tokens=3)
    assert found.window == TARGET and found.difference < 1e-4 < found.rounding < 0.5
    stage = models.load(tmp_path / "stage")
    with pytest.raises(RuntimeError, match=r"differs from the measured model's by more than rounding"):
        check_export(out, stage, tokenizer, prompt=TEXT, n_tokens=1)


# where it is written


def test_default_folder_has_the_name_of_the_run():
    params = cases.settings(mini_model_dir("llama3"), method="pose:n_chunks=3", seed=4)
    assert check_out(params) == root() / "exports" / "mine-pose-n_chunks-3-512-seed4"
    # A model of your own does not take the name of the kit's.
    own = cases.settings("/models/my model", model="smollm2")
    assert check_out(own) == root() / "exports" / "my-model-longrecipe-512-seed0"
    assert check_out(cases.settings("me/my-model", model="smollm2")).name == "my-model-longrecipe-512-seed0"


def test_out_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    for out, found in {"a/b": "a/b", "~/c": "home/c", "empty": "empty", "x/../d": "d"}.items():
        assert check_out(cases.settings("/models/base", out)) == (tmp_path / found).resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"empty"}


def test_folders_that_must_not_be_written_are_an_error(tmp_path, monkeypatch):
    base = cases.base(tmp_path / "base")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "longrecipe.json").write_text("[]")
    (tmp_path / "link").symlink_to(base)

    def refuses(out, message):
        with pytest.raises(ExportError, match=message) as caught:
            check_out(cases.settings(base, out))
        assert str(Path(out).resolve()) in str(caught.value) and "name a" in str(caught.value)

    refuses(tmp_path / "file", "file is a file, but must be a folder")
    refuses(tmp_path / "file" / "below", "file is a file, but must be a folder")
    refuses(tmp_path / "full", "is not empty and is no export of longrecipe")
    refuses(tmp_path / "odd", "is not empty and is no export of longrecipe")
    for out in (base, base / "out", tmp_path, tmp_path / "link", mini_model_dir("llama3") / "out"):
        refuses(out, "must stay")
    # Nobody can write there, root neither.
    refuses("/proc/longrecipe/out", "/proc cannot be written to")
    refuses("/proc", "mount point")
    refuses(tmp_path / "long" / ("x" * 250), "cannot be written to .*File name too long")
    with pytest.raises(ValueError, match=r"'~nobody-here/out': ~nobody-here is no user .*name another folder"):
        check_out(cases.settings(base, "~nobody-here/out"))
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_earlier_export_is_replaced_unless_files_were_added(made, tmp_path):
    base, out = made()
    again = cases.settings(base, out, merge_weight=1.0)
    (tmp_path / ".out.longrecipe-part").mkdir()
    (tmp_path / ".out.longrecipe-part" / "left by a kill").touch()
    assert export(again, tmp_path / "stage", TEXTS) == out
    assert read(out, "longrecipe.json")["settings"]["merge_weight"] == 1.0
    assert torch.equal(cases.load_file(out / "model.safetensors")["model.norm.weight"], torch.ones(32))
    assert {path.name for path in tmp_path.iterdir()} == {"base", "stage", "out"}
    (out / "quantized.gguf").write_text("mine")
    with pytest.raises(ExportError, match=r"also holds quantized\.gguf, which longrecipe did not write"):
        export(again, tmp_path / "stage", TEXTS)
    assert (out / "quantized.gguf").exists()


@pytest.mark.parametrize("step", ["merge_weights", "card", "_put"])
def test_failure_keeps_the_earlier_export_and_leaves_no_files(step, made, tmp_path, monkeypatch):
    base, out = made()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fails(*given, **named):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(module, step, fails)
        with pytest.raises(OSError, match="disk full"):
            export(cases.settings(base, out, merge_weight=0.2), tmp_path / "stage", TEXTS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not [*tmp_path.glob(".*")]


def test_export_can_be_extended_again(made, tmp_path):
    _, out = made()
    params = cases.settings(out, tmp_path / "longer", window=TARGET, target_length=4 * TARGET, probe_window=2 * TARGET)
    stage = models.load(out, target_length=4 * TARGET)
    models.save(stage, cases.tokenizer(), tmp_path / "second")
    longer = export(params, tmp_path / "second", TEXTS)
    assert read(longer)["rope_theta"] > read(out)["rope_theta"] and read(longer)["max_position_embeddings"] == 2048
    with pytest.raises(ExportError, match="must stay"):
        check_out(cases.settings(out, out))


# the card


def test_card_describes_the_base(made):
    def change(base):
        cases.edit_json(base / "config.json", _name_or_path="someone/Their-1B")
        front = {"license": "other", "license_name": "their-licence", "license_link": "LICENSE", "tags": ["a: b"]}
        (base / "README.md").write_text(f"---\n{yaml.safe_dump(front)}---\n# Their card\n")
        (base / "LICENSE").write_text("Theirs.")

    _, out = made(dtype=torch.bfloat16, change=change)
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["base_model"], front["license"], front["license_name"]) == (
        "someone/Their-1B",
        "other",
        "their-licence",
    )
    assert body.startswith("# mine, 512 tokens") and "Their card" not in body
    for row in (
        "| base model | base (its configuration names someone/Their-1B) |",
        "| licence | their-licence, see LICENSE |",
        "| dtype | bfloat16 |",
        "| architecture | LlamaForCausalLM |",
    ):
        assert row in body
    assert "transformers 5." in body and f"torch {torch.__version__}" in body


def test_licence_is_only_stated_if_the_base_has_one(made, tmp_path):
    _, out = made(change=lambda base: (base / "LICENSE.md").write_text("Mine."))
    front = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert (front["license"], front["license_link"]) == ("other", "LICENSE.md") and "base_model" not in front
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "stage")
    _, out = made(change=lambda base: (base / "README.md").write_text("---\n: [\n---\n"))
    text = (out / "README.md").read_text()
    assert "license" not in yaml.safe_load(text.split("---\n")[1]) and "| licence | not stated |" in text
