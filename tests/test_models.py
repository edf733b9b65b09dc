import fnmatch
import re

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from longrecipe.families import FAMILIES, MINI_VOCABULARY, MINI_WINDOW
from longrecipe.models import loading
from longrecipe.models.loading import (
    autocast_dtype,
    commit_of,
    folder_of,
    load,
    load_tokenizer,
    new_mini,
    save,
)
from longrecipe.models.rope import head_dim, ntk_base, rope_theta, wavelengths
from longrecipe.system.paths import is_hub_id, mini_model_dir, split_revision
from longrecipe.train.guard import check_skipped_positions

every_architecture = pytest.mark.parametrize("model", FAMILIES)


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


# new models


# By hand: 4 layers of queries, keys, values and output, three matrices of the MLP, and two norms; the last norm.
BODY = 4 * (128 * 128 + 2 * 128 * 64 + 128 * 128 + 3 * 128 * 384 + 2 * 128) + 128
EMBEDDINGS, BIASES = 1024 * 128, 4 * (128 + 64 + 64)
# Qwen3 normalises queries and keys: 32 weights for the queries and 32 for the keys of all heads of a layer.
SIZES = {"llama3": BODY + EMBEDDINGS, "mistral": BODY + 2 * EMBEDDINGS, "qwen2": BODY + EMBEDDINGS + BIASES}
SIZES |= {"qwen3": BODY + EMBEDDINGS + 4 * 2 * 32}


@every_architecture
def test_new_minis_have_the_shape_and_size_agreed(model):
    network = new_mini(model, seed=0)
    assert network.num_parameters() == SIZES[model]
    config = network.config
    names = {"llama3": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    assert type(network).__name__ == names[model] + "ForCausalLM"
    assert (config.vocab_size, config.max_position_embeddings) == (MINI_VOCABULARY, MINI_WINDOW)
    assert rope_theta(config) == (5.0e5 if model == "llama3" else 1.0e6)
    biases = {name.split(".", 3)[3] for name, _ in network.named_parameters() if name.endswith("bias")}
    assert biases == ({f"self_attn.{part}_proj.bias" for part in "qkv"} if model == "qwen2" else set())
    logits = network(torch.zeros(2, 5, dtype=torch.int64)).logits
    assert logits.shape == (2, 5, MINI_VOCABULARY) and logits.dtype == torch.float32


@every_architecture
def test_only_mistral_has_separate_output_weights_also_when_saved(model, tokenizer, tmp_path):
    network = new_mini(model, seed=0)
    for each in (network, load(save(network, tokenizer, tmp_path))):
        inputs, outputs = each.get_input_embeddings().weight, each.get_output_embeddings().weight
        tied = model != "mistral"
        assert each.config.tie_word_embeddings == (inputs is outputs) == torch.equal(inputs, outputs) == tied
    assert same(network, each)


@every_architecture
def test_minis_have_no_sliding_window_and_attend_across_skipped_positions(model):
    network = new_mini(model, seed=0)
    assert getattr(network.config, "sliding_window", None) is None
    assert {*(getattr(network.config, "layer_types", None) or ())} <= {"full_attention"}
    check_skipped_positions(network)


@every_architecture
def test_seed_determines_the_weights(model):
    assert same(new_mini(model, seed=1), new_mini(model, seed=1))
    assert not same(new_mini(model, seed=1), new_mini(model, seed=2))


def test_new_mini_keeps_the_global_random_state():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    new_mini("llama3", seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002


def test_unknown_model_error_lists_models():
    with pytest.raises(ValueError, match=f"model = 'gpt9': mini architectures are {', '.join(FAMILIES)}"):
        new_mini("gpt9", seed=0)


# folders


def test_folder_of_takes_a_name_or_a_path(tiny, tokenizer, tmp_path):
    assert folder_of("llama3") == mini_model_dir("llama3")
    saved = save(tiny, tokenizer, tmp_path / "own")
    assert folder_of(saved) == folder_of(str(saved)) == folder_of(saved, "paper") == saved


@pytest.mark.parametrize(("model", "scale"), [("gpt9", "mini"), ("gpt9", "paper"), ("no/such/folder", "small")])
def test_unknown_folder_error_lists_models(model, scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function in (folder_of, load, load_tokenizer):
        with pytest.raises(
            FileNotFoundError, match=rf"model = '{model}' at scale '{scale}': {tmp_path}/{model} is no .*are llama3"
        ):
            function(model, scale)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("llama3", split_revision(FAMILIES["llama3"].hub_id)),
        ("me/own-1.5B", ("me/own-1.5B", None)),
        ("me/own-1.5B@v2", ("me/own-1.5B", "v2")),
    ],
)
def test_hub_download_leaves_out_pickled_weights(model, asked, tiny, tokenizer, tmp_path, monkeypatch):
    saved, calls = save(tiny, tokenizer, tmp_path / "own"), []
    monkeypatch.setattr(
        loading, "snapshot_download", lambda name, **options: calls.append((name, options)) or str(saved)
    )
    assert folder_of(model, "paper") == saved
    ((name, options),) = calls
    assert (name, options["revision"]) == asked

    def fetched(file):
        # As huggingface_hub reads its patterns.
        allowed, ignored = (
            any(fnmatch.fnmatch(file, each) for each in options[f"{kind}_patterns"]) for kind in ("allow", "ignore")
        )
        return allowed and not ignored

    wanted = ["model-00001-of-00004.safetensors", "model.safetensors.index.json", "config.json", "README.md"]
    wanted += ["LICENSE", "LICENSE.txt", "USE_POLICY.md", "NOTICE", "generation_config.json", "merges.txt"]
    wanted += ["tokenizer.model", "tokenizer.model.v3", "chat_template.jinja", "qwen.tiktoken", "spiece.model"]
    wanted += ["additional_chat_templates/rag.jinja"]
    others = ["pytorch_model.bin", "original/tokenizer.model", "original/params.json", "consolidated.safetensors"]
    others += ["modeling_own.py", "training_args.bin", "model.gguf", "tf_model.h5"]
    assert all(map(fetched, wanted)) and not any(map(fetched, others))
    assert same(load(model, "paper"), tiny)


def test_models_of_the_paper_are_fixed_to_a_commit():
    for family in FAMILIES.values():
        assert is_hub_id(family.hub_id) and re.fullmatch(r"[0-9a-f]{40}", split_revision(family.hub_id)[1])


def test_commit_is_known_for_folders_of_the_hubs_cache(tmp_path):
    commit = "0" * 40
    assert commit_of(tmp_path / "models--me--own" / "snapshots" / commit) == commit
    assert commit_of(tmp_path / "own") is commit_of(folder_of("llama3")) is None


def test_failed_download_error_names_the_hub_id(monkeypatch):
    def refuse(*given, **options):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(loading, "snapshot_download", refuse)
    with pytest.raises(
        FileNotFoundError,
        match=f"'{FAMILIES['qwen2'].hub_id}': there is no folder .*download failed .*no connection.* name a folder",
    ):
        folder_of("qwen2", "paper")


def test_load_takes_window_dtype_and_attention(make_tiny, tokenizer, tmp_path):
    folder = save(make_tiny(3), tokenizer, tmp_path / "own")
    given = load(folder, target_length=1024, window=128, dtype=torch.bfloat16, attention="eager")
    assert given.dtype == torch.bfloat16 and given.config._attn_implementation == "eager"
    base = make_tiny(3).config
    assert rope_theta(given.config) == pytest.approx(
        ntk_base(rope_theta(base), head_dim=head_dim(base), window=128, target_length=1024)
    )
    assert rope_theta(given.config) > rope_theta(load(folder, target_length=1024).config)


def test_folder_without_config_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} is no model folder: it has no config\.json"):
        folder_of(tmp_path)


def test_mini_name_wins_over_a_local_folder(tmp_path, monkeypatch):
    (tmp_path / "llama3").mkdir()
    monkeypatch.chdir(tmp_path)
    assert folder_of("llama3") == mini_model_dir("llama3")


# loading and saving


def test_saved_model_loads_with_the_same_weights(make_tiny, tokenizer, tmp_path):
    network = make_tiny(3).train()
    folder = save(network, tokenizer, tmp_path / "deep" / "own")
    again = load(folder)
    assert same(network, again) and not again.training
    assert same(network, AutoModelForCausalLM.from_pretrained(folder))
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
    assert list(folder.glob("*.safetensors")) and not [*folder.glob("*.bin"), *folder.glob("*.pt")]


def test_pickled_weights_are_an_error(tiny, tmp_path):
    tiny.config.save_pretrained(tmp_path)
    torch.save(tiny.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load(tmp_path)


def test_missing_tensors_are_an_error(tiny, tokenizer, tmp_path):
    folder = save(tiny, tokenizer, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks model\.norm\.weight, which LlamaForCausalLM needs"):
        load(folder)


@pytest.mark.parametrize("factor", [None, 4.0])
def test_longer_window_only_raises_the_rope_base(factor):
    base, longer = load("llama3"), load("llama3", target_length=4096, rope_factor=factor)
    width, window = head_dim(base.config), base.config.max_position_embeddings
    expected = ntk_base(rope_theta(base.config), head_dim=width, window=window, target_length=4096, factor=factor)
    assert rope_theta(longer.config) == expected > rope_theta(base.config)
    assert longer.config.max_position_embeddings == 4096
    # What counts is what the model turns by.
    turns = 2 * np.pi / longer.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(turns, wavelengths(expected, width), rtol=1e-5)
    assert same(base, longer)
    assert not longer.training


def test_saved_model_keeps_its_raised_rope_base(tokenizer, tmp_path):
    longer = load("llama3", target_length=1024)
    again = load(save(longer, tokenizer, tmp_path))
    assert rope_theta(again.config) == rope_theta(longer.config)
    assert again.config.max_position_embeddings == 1024
    torch.testing.assert_close(again.model.rotary_emb.inv_freq, longer.model.rotary_emb.inv_freq)


# what ships


SHIPPED = sorted(folder.name for folder in mini_model_dir("").iterdir() if folder.is_dir())


def test_every_family_has_a_shipped_mini_model():
    # One recalls facts whose values are words.
    assert set(SHIPPED) == {*FAMILIES, "llama3-words"}


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_models_are_small_and_complete(model):
    folder = mini_model_dir(model)
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl", ".pickle")]
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) < 3_000_000
    network, tokenizer = load(model), load_tokenizer(model)
    assert network.num_parameters() == new_mini(model.removesuffix("-words"), seed=0).num_parameters()
    # The one that the models were trained with, whatever AutoTokenizer makes of the architecture.
    assert (
        tokenizer("Note: some text 42.\n\n")["input_ids"]
        == load_tokenizer("llama3")("Note: some text 42.\n\n")["input_ids"]
    )
    # Training steps are too small for bf16 weights.
    assert network.dtype == torch.float32
    assert len(tokenizer) == network.config.vocab_size == MINI_VOCABULARY
    assert all(torch.isfinite(p).all() and p.std() > 0 for p in network.parameters() if p.ndim == 2)


# precision


def test_auto_precision_depends_on_the_processor(monkeypatch):
    assert autocast_dtype("bf16") == torch.bfloat16
    assert autocast_dtype("fp32") == torch.float32
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert autocast_dtype("auto") == expected
    with pytest.raises(KeyError):
        autocast_dtype("fp8")


def test_a_model_is_described_in_words(make_tiny):
    words = loading.described(make_tiny(rope_theta=10_000.0))
    assert words.endswith("parameters, window 256 tokens, RoPE base 10,000") and words[0].isdigit()
