"""Checks before a run: each problem ends the run before any work, with one message that says how to fix it."""

import json
import shutil
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    GPTNeoXConfig,
    MistralConfig,
    PhiConfig,
)

from longrecipe import cost, models, recipe
from longrecipe import settings as params
from longrecipe.cli import main
from longrecipe.data import hubtext
from longrecipe.recipe import disk, durations, preflight
from longrecipe.settings import Setup
from longrecipe.train.memory import setup_of

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1024,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path, tiny, tokenizer):
    return models.save(tiny, tokenizer, tmp_path / "model")


def settings(folder, **changes):
    given = {"scale": "small", "weights": str(folder), "window": None, "target_length": 512, "eval_facts": 2}
    own = folder.parent / "own.yaml"
    own.write_text(json.dumps({"model": "mine"} | given | changes))
    return params.load(str(own))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def model_of(config, folder, tokenizer):
    return models.save(AutoModelForCausalLM.from_config(config), tokenizer, folder)


def test_valid_model_passes_and_nothing_is_written(folder):
    before = sorted(folder.parent.rglob("*"))
    assert len(preflight.check(settings(folder))) == 1024
    assert sorted(set(folder.parent.rglob("*")) - set(before)) == [folder.parent / "own.yaml"]


def test_buffers_of_old_checkpoints_are_ignored(folder):
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]
    change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(4) for name in names}))
    preflight.check(settings(folder))


def untie(folder):
    change_json(folder / "config.json", tie_word_embeddings=False)
    change_tensors(folder, lambda tensors: tensors.pop("lm_head.weight", None))


def drop_norm(folder):
    change_tensors(folder, lambda tensors: tensors.pop("model.norm.weight"))


def add_tower(folder):
    change_tensors(folder, lambda tensors: tensors.update({"vision.patch.weight": torch.ones(4, 4)}))


def narrow(folder):
    change_json(folder / "config.json", intermediate_size=48)


def to_int8(folder):
    change_tensors(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))


def quantise(folder):
    change_json(folder / "config.json", quantization_config={"quant_method": "fp8"})


def to_bin(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])


def half(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def lose_shard(folder):
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def lose_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def point(name):
    return lambda folder: (folder / name).write_text(LFS)


def other_type(folder):
    change_json(folder / "config.json", model_type="nothing_known")


FAULTS = {
    "missing head": (untie, r"lacks lm_head\.weight, which LlamaForCausalLM needs; .* tie_word_embeddings"),
    "missing tensor": (drop_norm, r"lacks model\.norm\.weight, which LlamaForCausalLM needs; save it again"),
    "unused tensor": (add_tower, r"has vision\.patch\.weight, which LlamaForCausalLM does not use"),
    "other shape": (narrow, r"mlp\.\w+\.weight is \(.*\), but config\.json asks for \(.*\)"),
    "int8": (to_int8, r"model\.norm\.weight is stored as I8, which cannot be trained"),
    "quantised": (quantise, r"the weights are quantised \(quantization_config"),
    "bin": (to_bin, r"pytorch_model\.bin; convert the model to safetensors"),
    "cut in its header": (cut, r"is not a readable safetensors file .*download or save it again"),
    "cut in half": (half, r"is not a readable safetensors file .*download or save it again"),
    "lost shard": (lose_shard, r"lists 'model-00001-of-00002\.safetensors', which is not in the folder"),
    "pointer to weights": (point("model.safetensors"), r"model\.safetensors is a Git LFS pointer.*`git lfs pull`"),
    "pointer to tokenizer": (point("tokenizer.json"), r"tokenizer\.json is a Git LFS pointer.*`git lfs pull`"),
    "pointer to config": (point("config.json"), r"config\.json is a Git LFS pointer.*`git lfs pull`"),
    "no tokenizer": (lose_tokenizer, r"has no tokenizer that transformers can read .*copy the model's tokenizer\.json"),
    "unknown architecture": (other_type, r"nothing_known"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_model_that_cannot_be_trained_is_an_error(name, folder):
    fault, message = FAULTS[name]
    fault(folder)
    with pytest.raises((ValueError, OSError), match=message):
        preflight.check(settings(folder, window=256))


def test_tokenizer_with_more_ids_than_embeddings_is_an_error(tmp_path, make_tiny, tokenizer):
    folder = models.save(make_tiny(0, vocab_size=1000), tokenizer, tmp_path / "model")
    message = r"token ids up to 1023, but the model has 1000 embeddings: .*resize_token_embeddings\(1024\)"
    with pytest.raises(ValueError, match=message):
        preflight.check(settings(folder))
    preflight.check(settings(models.save(make_tiny(0, vocab_size=1088), tokenizer, tmp_path / "padded")))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (PhiConfig(**SMALL), {}, r"fused_loss: PhiForCausalLM has a head with a bias.*set fused_loss: false"),
        (
            Gemma2Config(**SMALL, head_dim=8),
            {"method": "pose", "attention": "eager"},
            "fused_loss: .*final_logit_softcapping.*fused_loss: false",
        ),
        (
            Gemma2Config(**SMALL, head_dim=8),
            {},
            "Gemma2ForCausalLM does not support sdpa .*set attention: eager",
        ),
        (
            Gemma2Config(**SMALL, head_dim=8),
            {"attention": "eager"},
            "changes its logits .*set selection: random, or another method, .*loss_weight: none and document_cand",
        ),
        (Cohere2Config(**SMALL, logit_scale=0.1), {"selection": "random"}, "logit_scale"),
        (
            GPTNeoXConfig(**SMALL),
            {"merge_rule": "spare_qk"},
            "no tensors named q_proj or k_proj.*set merge_rule to 'uniform'",
        ),
    ],
    ids=["phi", "gemma2", "gemma2 attends", "gemma2 analysed", "cohere2", "neox"],
)
def test_unsupported_architecture_error_names_the_setting_that_helps(config, changes, message, tmp_path, tokenizer):
    folder = model_of(config, tmp_path / "model", tokenizer)
    with pytest.raises(ValueError, match=message):
        preflight.check(settings(folder, window=256, **changes))


@pytest.mark.parametrize("config", [PhiConfig(**SMALL), GPTNeoXConfig(**SMALL)], ids=["phi", "neox"])
def test_setting_from_the_error_message_helps(config, tmp_path, tokenizer):
    preflight.check(settings(model_of(config, tmp_path / "model", tokenizer), fused_loss=False))


def test_window_above_the_models_own_is_an_error(folder):
    with pytest.raises(ValueError, match=r"window = 300: the model's own is 256 .*set 256 or less, or null"):
        preflight.check(settings(folder, window=300, target_length=1024))


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}, "before it was"),
        ({"rope_type": "linear", "factor": 2.0}, "before it was"),
        ({"rope_type": "yarn", "factor": 4.0}, "remove rope_scaling .*window: 64"),
        ({"rope_type": "dynamic", "factor": 4.0}, "remove rope_scaling .*window: 64"),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_scaled_rope_error_explains_what_to_do(rope, message, folder):
    config = json.loads((folder / "config.json").read_text())
    config.pop("rope_parameters"), config.pop("rope_theta", None)
    rope |= {"original_max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 1e4, "rope_scaling": rope}))
    with pytest.raises(ValueError, match=f"rope_type is '{rope['rope_type']}'.*{message}"):
        preflight.check(settings(folder, window=256))


def test_facts_that_do_not_fit_are_an_error(folder):
    with pytest.raises(ValueError, match=r"eval_facts = 40: they do not fit into documents of 256 tokens"):
        preflight.check(settings(folder, eval_facts=40))


def test_facts_that_do_not_fit_the_minis_are_an_error():
    with pytest.raises(ValueError, match=r"eval_facts = 60: they do not fit into documents of 256 tokens"):
        preflight.check(params.load("llama3", eval_facts=60))
    preflight.check(params.load("llama3"))


def test_token_analysis_checks_the_whole_model(folder):
    drop_norm(folder)
    with pytest.raises(ValueError, match=r"lacks model\.norm\.weight"):
        recipe.prepare(settings(folder), analysis_only=True)


def test_missing_text_error_gives_the_absolute_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for key in ("text", "replay_text"):
        with pytest.raises((ValueError, OSError), match=str(folder.parent / "texts")):
            preflight.check(settings(folder, **{key: "./texts"}))


def test_unknown_dataset_is_an_error_in_the_check_without_download(folder, monkeypatch):
    def refuse(*given, **options):
        raise ConnectionError("no connection")

    monkeypatch.setattr(hubtext.HfApi, "dataset_info", refuse)
    monkeypatch.chdir(folder.parent)
    p = settings(folder, text="data/long")
    with pytest.raises(
        FileNotFoundError, match=rf"no file or folder {folder.parent}/data/long, and no dataset .*connection"
    ):
        preflight.check(p, fetch=False)
    # A run does not look it up, because the text may be in the cache.
    preflight.check(p)


def test_too_short_text_is_an_error_before_training(folder):
    texts = folder.parent / "texts"
    texts.mkdir()
    for i in range(3):
        (texts / f"{i}.txt").write_text(f"Some {i} words. " * 150)
    with pytest.raises(ValueError, match=r"tokens to train on, and a document of target_length = 8192 needs 8,192"):
        recipe.prepare(settings(folder, text=str(texts), target_length=8192, eval_lengths=[256]))
    with pytest.raises(ValueError, match=r"tokens to train on, and the token analysis .* needs "):
        recipe.prepare(settings(folder, text=str(texts), analysis_documents=30))


def test_too_little_disk_space_is_an_error(folder, monkeypatch):
    p = settings(folder)
    need = disk.disk_need(p, preflight.check_config(p))
    usage = namedtuple("usage", ("total", "used", "free"))
    for free, fits in ((need + 1, True), (need - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage(1, 1, free))
        if fits:
            preflight.check(p)
        else:
            with pytest.raises(ValueError, match=r"writes about .* GB to .*cache.*set \$LONGRECIPE_CACHE"):
                preflight.check(p)


def test_disk_space_of_the_papers_run():
    # By hand: 8.03e9 parameters of 2 bytes; four copies, and three checkpoints with 8-bit moments.
    p = params.load("llama3", "paper")
    config = models.config_of(p.source, p.scale)
    model = 2 * 8.03e9
    by_hand = 4 * model + 3 * (model + 2 * (1 + 4 / 256) * 8.03e9)
    assert cost.disk_bytes(config, setup_of(p)) == pytest.approx(by_hand, rel=1e-3)
    rows = 9984 * 38400 + 64 * 8 * 16384 + 86 * 96 * 8192
    assert disk.disk_need(p, config) == pytest.approx(by_hand + 8 * rows + 4 * 2 * 1310720000, rel=1e-3)


def test_copies_of_the_weights_after_some_steps_need_disk_space(folder):
    plain, asked = settings(folder), settings(folder, eval_steps=[10, 20])
    config = preflight.check_config(plain)
    n_parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    more = disk.disk_need(asked, config) - disk.disk_need(plain, config)
    assert more == pytest.approx(2 * 4 * n_parameters, rel=0.1)


def test_weights_cannot_be_kept_after_some_steps_if_they_are_sharded(folder, monkeypatch):
    monkeypatch.setattr(preflight, "setup_of", lambda p: Setup.of(p, shards=2))
    with pytest.raises(ValueError, match=r"^eval_steps = \[10\] with weights sharded over 2 processes"):
        preflight.check(settings(folder, eval_steps=[10]))


def test_cache_that_cannot_be_written_is_an_error(folder, monkeypatch):
    blocked = folder.parent / "blocked"
    blocked.write_text("a file")
    monkeypatch.setenv("LONGRECIPE_CACHE", str(blocked / "cache"))
    with pytest.raises(OSError, match=r"cache \(\$LONGRECIPE_CACHE\): no files can be written to .*blocked/cache"):
        preflight.check(settings(folder))


def exit_of(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "check"])
def test_damaged_model_exits_1_with_one_message(command, folder, capsys, monkeypatch):
    monkeypatch.setattr(
        "longrecipe.recipe.preparing.load_text", lambda *given: pytest.fail("read the text before all checks")
    )
    settings(folder)
    drop_norm(folder)
    code, said = exit_of(capsys, command, "--params", str(folder.parent / "own.yaml"))
    assert code == 1 and said.count("\n") == 1 and "lacks model.norm.weight" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--params", "none.yaml"), "there is no params file"),
        (("--params", "."), "has no params file"),
        (("-p", "ratio", "[1, 2"), "ratio = '[1, 2': input should be a valid number"),
        (("-p", "weights", "no/such/model"), "no/such/model is no folder"),
        (("-p", "weights", "model/config.json"), "model/config.json is a file; name its folder"),
        (("-p", "scale", "mini", "-p", "text", "texts"), "use scale small or paper for text of your own"),
        (("--out", "own.yaml"), "own.yaml"),
    ],
    ids=["no file", "a folder", "no number", "no model", "a file", "mini", "out"],
)
def test_mistakes_on_the_command_line_give_one_message(words, message, folder, capsys, monkeypatch):
    settings(folder)
    monkeypatch.chdir(folder.parent)
    words = words if words[0] == "--params" else ("--params", "own.yaml", *words)
    code, said = exit_of(capsys, "check", *words)
    assert code == 1 and message in said and "Traceback" not in said, said


def test_check_that_passes_is_logged(folder, caplog):
    caplog.set_level("INFO")
    settings(folder)
    main(["check", "--params", str(folder.parent / "own.yaml")])
    assert "checked: the run can start" in caplog.text and "GB on disk" in caplog.text


def test_sliding_windows_are_an_error(tmp_path, tokenizer):
    folder = model_of(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=128), tmp_path / "model", tokenizer)
    with pytest.raises(ValueError, match="sliding window of 128 tokens in every layer"):
        preflight.check(settings(folder))


def test_tagging_that_takes_longer_than_a_night_is_refused():
    def check(**changes):
        durations.check_tagging(params.load("llama3", "paper", **changes))

    # 9,984 documents of 128,000 tokens.
    with pytest.raises(ValueError, match=r"hanta would tag 9,984 documents .* in 20 hours .*'textblob' \(1\.5 hours\)"):
        check(token_types="pos")
    with pytest.raises(ValueError, match=r"textblob would tag 99,840 documents .* Use token_types = 'class' or"):
        check(token_types="pos", tagger="textblob", n_documents=99_840)
    # Quicker, without parts of speech, and without a token analysis.
    check(token_types="pos", tagger="textblob")
    check(token_types="class")
    check(token_types="pos", method="pose")
    durations.check_tagging(params.load("smollm2", "small"))
