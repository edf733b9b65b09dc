import json
import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import longrecipe.merge as module
from longrecipe.merge import MergeError, check_rule, interpolate, merge, merge_weights, read_checkpoint
from longrecipe.models.rope import extend_config

weights = st.floats(0, 1)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def tiny(seed, tied=False, **changes):
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": tied,
        }
        | changes
    )
    return LlamaForCausalLM(config).eval()


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def tensors_of(folder):
    return {k: v for path in sorted(Path(folder).glob("model*.safetensors")) for k, v in load_file(path).items()}


def by_hand(folder, tensors, config=None, n_shards=1):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama", "tie_word_embeddings": False}))
    if n_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(tensors)
    shard_of = {name: f"model-{i % n_shards + 1:05d}-of-{n_shards:05d}.safetensors" for i, name in enumerate(names)}
    for shard in set(shard_of.values()):
        save_file({name: tensors[name] for name in names if shard_of[name] == shard}, folder / shard)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": shard_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def pair(tmp_path):
    """An original and a tuned model with a raised RoPE base, each in one file."""
    original, tuned = tiny(0), tiny(1)
    config = extend_config(tuned.config, 1024)
    tuned = LlamaForCausalLM(config).eval()
    tuned.generation_config.max_length = 777
    return saved(original, tmp_path / "original"), saved(tuned, tmp_path / "tuned")


# the average of two tensors


@st.composite
def two_tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 100.0]))
    return tuple(torch.tensor(scale * rng.standard_normal(shape)).to(draw(dtypes)) for _ in range(2))


@given(two_tensors(), dtypes)
def test_weights_0_and_1_give_the_inputs_exactly(tensors, dtype):
    original, tuned = tensors
    assert torch.equal(interpolate(original, tuned, 0.0), tuned)
    assert torch.equal(interpolate(original, tuned, 1.0), original.to(tuned.dtype))
    assert interpolate(original, tuned, 0.3).dtype == tuned.dtype


@given(two_tensors(), weights)
def test_average_is_linear_in_the_weight(tensors, weight):
    original, tuned = tensors
    expected = (weight * original.double() + (1 - weight) * tuned.double()).to(tuned.dtype)
    # Computed in float32: allow one unit in the last place of the dtype, and of float32 at the size of the inputs.
    slack = 4 * torch.finfo(torch.float32).eps * torch.maximum(original.double().abs(), tuned.double().abs())
    error = (interpolate(original, tuned, weight).double() - expected.double()).abs()
    tiny_step = torch.finfo(tuned.dtype).smallest_normal * torch.finfo(tuned.dtype).eps
    assert (error <= slack + torch.finfo(tuned.dtype).eps * expected.double().abs() + tiny_step).all()


@given(two_tensors(), weights)
def test_equal_tensors_are_unchanged(tensors, weight):
    assert torch.equal(interpolate(tensors[0], tensors[0].clone(), weight), tensors[0])


def test_low_precision_is_averaged_in_float32():
    # 256 + 1 is not a bfloat16, so adding in bfloat16 would lose the 1 before halving.
    original, tuned = torch.tensor([256.0]).bfloat16(), torch.tensor([1.0]).bfloat16()
    assert interpolate(original, tuned, 0.5).item() == torch.tensor(128.5).bfloat16().item()
    assert interpolate(torch.tensor([1e-30], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 0.5) == 5e-31


def test_average_does_not_change_its_inputs():
    original, tuned = torch.ones(3), torch.zeros(3)
    interpolate(original, tuned, 0.25)
    assert original.eq(1).all() and tuned.eq(0).all()


def test_integer_tensors_must_be_equal():
    counts = torch.arange(3)
    assert torch.equal(interpolate(counts, counts.clone(), 0.5), counts)
    for other in (counts + 1, counts.int(), counts.float()):
        with pytest.raises(MergeError, match="must be equal"):
            interpolate(counts, other, 0.5)
    with pytest.raises(MergeError, match="8-bit floats"):
        interpolate(torch.ones(2).to(torch.float8_e4m3fn), torch.ones(2).to(torch.float8_e4m3fn), 0.5)


# folders


@settings(max_examples=15, deadline=None)
@given(
    weight=st.just(0.0) | st.just(1.0) | weights,
    shards=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dtype=dtypes,
    seed=st.integers(0, 99),
)
def test_merge_gives_the_average_for_any_sharding_and_dtype(weight, shards, dtype, seed):
    rng = np.random.default_rng(seed)
    original = {f"w{i}": torch.tensor(rng.standard_normal((2, 3)), dtype=torch.float32) for i in range(5)}
    tuned = {f"w{i}": torch.tensor(rng.standard_normal((2, 3))).to(dtype) for i in range(5)}
    for tensors in (original, tuned):
        tensors["counts"] = torch.arange(4)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        first = by_hand(root / "original", original, n_shards=shards[0])
        second = by_hand(root / "tuned", tuned, n_shards=shards[1])
        out = merge(first, second, root / "out", weight=weight)
        assert out == root / "out"
        assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in second.iterdir())
        assert read_checkpoint(out).files == read_checkpoint(second).files
        merged = tensors_of(out)
        assert merged.keys() == tuned.keys()
        for name, tensor in merged.items():
            assert tensor.dtype == tuned[name].dtype
            assert torch.equal(tensor, interpolate(original[name], tuned[name], weight))


@pytest.mark.parametrize("sizes", [("1GB", "1GB"), ("50KB", "1GB"), ("1GB", "50KB"), ("50KB", "30KB")])
def test_merged_model_loads_and_computes_like_the_average(pair, tmp_path, sizes):
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in pair]
    folders = [
        saved(model, tmp_path / f"{i}", max_shard_size=size)
        for i, (model, size) in enumerate(zip(models, sizes, strict=True))
    ]
    out = merge(*folders, tmp_path / "out")
    is_sharded = sizes[1] != "1GB"
    assert (out / "model.safetensors.index.json").is_file() == is_sharded
    if is_sharded:
        indexes = [json.loads((f / "model.safetensors.index.json").read_text()) for f in (out, folders[1])]
        assert len(set(indexes[0]["weight_map"].values())) > 1
        assert indexes[0] == indexes[1]

    merged = AutoModelForCausalLM.from_pretrained(out)
    assert merged.config.rope_parameters == models[1].config.rope_parameters != models[0].config.rope_parameters
    assert merged.config.max_position_embeddings == 1024
    by_torch = models[1]
    with torch.no_grad():
        for parameter, before in zip(by_torch.parameters(), models[0].parameters(), strict=True):
            parameter.copy_((parameter + before) / 2)
        tokens = torch.arange(20)[None]
        torch.testing.assert_close(merged(tokens).logits, by_torch(tokens).logits)


def test_tuned_model_in_bfloat16_gives_bfloat16(pair, tmp_path):
    low = saved(AutoModelForCausalLM.from_pretrained(pair[1], dtype=torch.bfloat16), tmp_path / "low")
    merged = tensors_of(merge(pair[0], low, tmp_path / "out", weight=1.0))
    original = tensors_of(pair[0])
    assert all(torch.equal(tensor, original[name].bfloat16()) for name, tensor in merged.items())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_small_files_are_copied_and_other_weights_are_not(pair, tmp_path):
    original, tuned = pair
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"):
        (tuned / name).write_text(f"tuned {name}")
        (original / name).write_text(f"original {name}")
    for name in ("training_args.bin", "optimizer.pt", "consolidated.safetensors", "pytorch_model.bin.index.json"):
        (tuned / name).write_text("no")
    (tuned / "additional_chat_templates").mkdir()
    (tuned / "additional_chat_templates" / "rag.jinja").write_text("template")
    (tuned / "checkpoint-5").mkdir()
    (tuned / "checkpoint-5" / "trainer_state.json").write_text("{}")

    out = merge(original, tuned, tmp_path / "deep" / "out")

    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
    }
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (out / name).read_bytes() == (tuned / name).read_bytes()
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_empty_out_dir_is_allowed(pair, tmp_path):
    (tmp_path / "out").mkdir()
    assert (merge(*map(str, pair), str(tmp_path / "out")) / "config.json").is_file()


def test_symbolic_links_are_merged_to_real_files(pair, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in pair[1].iterdir():
        (linked / path.name).symlink_to(path)
    out = merge(pair[0], linked, tmp_path / "out")
    assert not any(path.is_symlink() for path in out.iterdir())


def test_merge_holds_one_pair_of_tensors_at_a_time(pair, tmp_path, monkeypatch):
    folder = saved(AutoModelForCausalLM.from_pretrained(pair[1]), tmp_path / "shards", max_shard_size="20KB")
    files = read_checkpoint(folder).files
    largest = max(list(files.values()).count(shard) for shard in files.values())
    assert largest < len(files)
    inputs, results = [], []

    def watched(original, tuned, weight, *, dtype):
        assert not any(reference() is not None for reference in inputs)
        assert sum(reference() is not None for reference in results) < largest
        inputs.extend([weakref.ref(original), weakref.ref(tuned)])
        results.append(weakref.ref(result := interpolate(original, tuned, weight, dtype=dtype)))
        return result

    monkeypatch.setattr(module, "interpolate", watched)
    merge(pair[0], folder, tmp_path / "out")
    assert len(results) == len(files)


# layout


@pytest.mark.parametrize("rule", ["uniform", "spare_qk"])
def test_layout_original_keeps_its_files_and_dtypes(tmp_path, rule):
    original = saved(tiny(0).to(torch.bfloat16), tmp_path / "original", max_shard_size="20KB")
    tuned, out = saved(tiny(1), tmp_path / "tuned"), tmp_path / "out"
    out.mkdir()
    merge_weights(original, tuned, out, weight=0.3, rule=rule, layout="original")
    before, (first, second) = read_checkpoint(original), map(tensors_of, (original, tuned))
    (out / "config.json").write_text("{}")
    found = read_checkpoint(out)
    assert (found.files, found.dtypes, found.shapes) == (before.files, before.dtypes, before.shapes)
    assert len(set(found.files.values())) > 2
    for name, tensor in tensors_of(out).items():
        spared = rule == "spare_qk" and ("q_proj" in name or "k_proj" in name)
        exact = second[name] if spared else torch.lerp(second[name], first[name].float(), 0.3)
        assert torch.equal(tensor, exact.to(torch.bfloat16)), name
    with pytest.raises(MergeError, match="layout is 'both', but must be one of tuned, original"):
        merge_weights(original, tuned, out, layout="both")


@pytest.mark.parametrize("norm", ["q_norm", "k_norm", "q_layernorm"])
def test_norms_of_queries_and_keys_stay_tuned_with_their_projections(norm, tmp_path):
    names = [f"model.layers.0.self_attn.{each}.weight" for each in ("q_proj", norm, "v_proj")]
    names += ["model.layers.0.input_layernorm.weight"]
    folders = [by_hand(tmp_path / str(i), {name: torch.full((2,), float(i)) for name in names}) for i in range(2)]
    merged = tensors_of(merge(*folders, tmp_path / "out", rule="spare_qk"))
    assert [merged[name][0].item() for name in names] == [1.0, 1.0, 0.5, 0.5]


def test_values_beyond_float16_are_an_error(tmp_path):
    original = by_hand(tmp_path / "original", {"w": torch.tensor([1.0, 2.0], dtype=torch.float16)})
    tuned = by_hand(tmp_path / "tuned", {"w": torch.tensor([2.0e5, 1.0])})
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError, match=r"w: values up to 1e\+05 exceed the maximum of float16.*bfloat16"):
        merge_weights(original, tuned, tmp_path / "out", layout="original")
    # Values that are already infinite are allowed.
    assert interpolate(torch.tensor([torch.inf]), torch.ones(1), 1.0, dtype=torch.float16) == torch.inf


@pytest.mark.parametrize("side", [0, 1])
def test_computed_buffers_are_left_out_if_only_the_original_has_them(tmp_path, side):
    tensors = {"model.layers.0.self_attn.q_proj.weight": torch.ones(2, 2)}
    folders = [
        by_hand(tmp_path / f"{i}", tensors | ({"layers.0.rotary_emb.inv_freq": torch.ones(2)} if i == side else {}))
        for i in range(2)
    ]
    if side == 1:
        with pytest.raises(MergeError, match=r"rotary_emb\.inv_freq only in"):
            merge(*folders, tmp_path / "out")
    else:
        assert tensors_of(merge(*folders, tmp_path / "out")).keys() == tensors.keys()


def test_check_rule_rejects_models_and_rules_that_cannot_be_merged(pair, tmp_path):
    for rule in module.RULES:
        check_rule(pair[0], rule)
    fused = by_hand(tmp_path / "fused", {"layers.0.attention.query_key_value.weight": torch.ones(2, 2)})
    check_rule(fused, "uniform")
    with pytest.raises(MergeError, match=r"fused has no tensors named q_proj or k_proj.*set merge_rule to 'uniform'"):
        check_rule(fused, "spare_qk")
    with pytest.raises(MergeError, match="rule is 'ties'"):
        check_rule(fused, "ties")


# tied embeddings


def with_head(folder, out, head=None):
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone() if head is None else head
    return by_hand(out, tensors, json.loads((folder / "config.json").read_text()), n_shards=2)


@pytest.mark.parametrize("side", [0, 1])
def test_tied_head_of_one_model_is_left_out(tmp_path, side):
    folders = [saved(tiny(seed, tied=True), tmp_path / f"{seed}") for seed in (0, 1)]
    expected = tensors_of(merge(*folders, tmp_path / "plain"))
    folders[side] = with_head(folders[side], tmp_path / "with_head")
    out = merge(*folders, tmp_path / "out")
    merged = tensors_of(out)
    assert merged.keys() == expected.keys() == read_checkpoint(out).files.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in merged.items())
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.lm_head.weight is model.model.embed_tokens.weight
    if side == 1:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in merged.values())


def test_tied_head_of_both_models_is_averaged(tmp_path):
    folders = [saved(tiny(seed, tied=True), tmp_path / f"{seed}") for seed in (0, 1)]
    folders = [with_head(folder, tmp_path / f"{folder.name}_head") for folder in folders]
    merged = tensors_of(merge(*folders, tmp_path / "out", weight=0.3))
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])


def test_untied_head_is_never_left_out(tmp_path):
    tied = [saved(tiny(seed, tied=True), tmp_path / f"{seed}") for seed in (0, 1)]
    untied = saved(tiny(2), tmp_path / "untied")
    apart = with_head(tied[1], tmp_path / "apart", head=torch.ones(96, 32))
    for folders in ((tied[0], apart), (tied[0], untied), (untied, tied[0])):
        with pytest.raises(MergeError, match=r"lm_head\.weight only in"):
            merge(*folders, tmp_path / "out")


# errors


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf")])
def test_weight_outside_the_range_is_an_error(pair, tmp_path, weight):
    with pytest.raises(MergeError, match=f"weight is {weight}"):
        merge(*pair, tmp_path / "out", weight=weight)


def test_out_dir_in_use_is_an_error(pair, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(MergeError, match="not an empty folder"):
            merge(*pair, tmp_path / name)
    for folder in (*pair, tmp_path / "full" / ".." / "tuned"):
        with pytest.raises(MergeError, match="one of the models to merge"):
            merge(*pair, folder)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("side", [0, 1])
def test_missing_folders_and_files_are_named(pair, tmp_path, side):
    pair = list(pair)

    def refuses(message):
        with pytest.raises(MergeError, match=message):
            merge(*pair, tmp_path / "out")

    kept, pair[side] = pair[side], tmp_path / "nowhere"
    refuses("nowhere has no config.json")
    pair[side] = kept
    (kept / "model.safetensors").rename(kept / "pytorch_model.bin")
    refuses(r"pytorch_model\.bin; convert the model to safetensors")
    (kept / "pytorch_model.bin").unlink()
    refuses("but nothing; convert the model to safetensors")
    (kept / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    refuses("not a readable safetensors")


def test_index_that_does_not_match_its_files_is_an_error(pair, tmp_path):
    folder = saved(AutoModelForCausalLM.from_pretrained(pair[1]), tmp_path / "sharded", max_shard_size="50KB")
    path = folder / "model.safetensors.index.json"
    good = json.loads(path.read_text())

    def refuses(text, message):
        path.write_text(text)
        with pytest.raises(MergeError, match=message):
            merge(pair[0], folder, tmp_path / "out")

    refuses("{", "not readable JSON")
    for shard in ("lost.safetensors", "../tuned/model.safetensors"):
        shard_of = good["weight_map"] | {"model.norm.weight": shard}
        refuses(json.dumps({"weight_map": shard_of}), f"lists '{shard}'")
    shard_of = good["weight_map"] | {"extra.weight": good["weight_map"]["model.norm.weight"]}
    refuses(json.dumps({"weight_map": shard_of}), "lacks extra.weight")


def test_tensors_that_only_one_model_has_are_named(pair, tmp_path):
    with pytest.raises(MergeError) as caught:
        merge(pair[0], saved(tiny(3, num_hidden_layers=3), tmp_path / "deeper"), tmp_path / "out")
    assert "nothing only in" in str(caught.value)
    assert "model.layers.2.input_layernorm.weight" in str(caught.value) and "and 6 more only in" in str(caught.value)


def test_different_shapes_are_named(pair, tmp_path):
    with pytest.raises(MergeError, match=r"lm_head.weight \(96, 32\) and \(98, 32\)"):
        merge(pair[0], saved(tiny(3, vocab_size=98), tmp_path / "wider"), tmp_path / "out")


def test_different_integer_buffers_are_named(tmp_path):
    first = by_hand(tmp_path / "first", {"w": torch.ones(2), "steps": torch.tensor([1])})
    second = by_hand(tmp_path / "second", {"w": torch.ones(2), "steps": torch.tensor([2])})
    with pytest.raises(MergeError, match=r"steps: .*int64"):
        merge(first, second, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["save_file", "shutil.copyfile", "os.replace"])
def test_failed_merge_leaves_no_files(pair, tmp_path, monkeypatch, error, step):
    folder = saved(AutoModelForCausalLM.from_pretrained(pair[1]), tmp_path / "sharded", max_shard_size="50KB")
    before = sorted(path.name for path in tmp_path.iterdir())
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    calls = []
    holder, _, name = step.rpartition(".")
    target = {"": module, "shutil": module.shutil, "os": os}[holder]
    real = getattr(target, name)

    def fails(*args, **kwargs):
        calls.append(args)
        if step == "save_file" and len(calls) == 1:
            return real(*args, **kwargs)  # one shard is already written
        raise error("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fails)
        with pytest.raises(error):
            merge(pair[0], folder, tmp_path / "out")
    assert calls
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == contents
    merge(pair[0], folder, tmp_path / "out")
