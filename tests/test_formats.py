"""Settings files that transformers 4 and 5 read alike."""

import json
import stat

import model_cases as cases
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GPT2Config, LlamaConfig

from longrecipe import models
from longrecipe.families import FAMILIES
from longrecipe.models.formats import readable_config, readable_tokenizer, tidy
from longrecipe.models.rope import extend_config, rope_keys, rope_theta, rotated_share
from longrecipe.models.rope_rules import RULES
from longrecipe.system.files import read_json, write_json
from longrecipe.system.paths import mini_model_dir


@pytest.mark.parametrize("kind", cases.KINDS)
def test_old_and_new_names_give_the_same_configuration(kind, tmp_path):
    config = extend_config(cases.KINDS[kind](), cases.TARGET)
    config.save_pretrained(tmp_path)
    written = readable_config(read_json(tmp_path / "config.json"), config)
    # The names that older versions read.
    assert written["rope_theta"] == rope_theta(config) > 1.0e4
    assert written.get("partial_rotary_factor", 1) == rotated_share(config)
    for dropped in ((), ("rope_parameters",), ("rope_theta", "rotary_emb_base", "rotary_pct", "partial_rotary_factor")):
        write_json(tmp_path / "config.json", {k: v for k, v in written.items() if k not in dropped})
        again = AutoConfig.from_pretrained(tmp_path)
        assert (rope_theta(again), rotated_share(again)) == (rope_theta(config), rotated_share(config))
    assert readable_config(written, again) == written


def test_other_rope_types_are_written_under_old_names_too():
    scaling = {"rope_type": "linear", "factor": 2.0}
    config = LlamaConfig(rope_parameters=scaling | {"rope_theta": 7.0})
    assert rope_keys(config) == {
        "rope_theta": 7.0,
        "rope_scaling": scaling,
        "rope_parameters": scaling | {"rope_theta": 7.0},
    }
    assert rope_keys(GPT2Config()) == {}
    config.rope_parameters = {"full_attention": {"rope_theta": 7.0}, "sliding_attention": {"rope_theta": 8.0}}
    assert rope_keys(config) == {}


@pytest.mark.parametrize("scaling", [{"type": "default"}, {"rope_type": "default", "rope_theta": 1.0e4}])
@pytest.mark.parametrize("rule", RULES)
def test_a_default_scaling_of_the_base_does_not_hide_the_rule(rule, scaling, tmp_path):
    config = extend_config(LlamaConfig(max_position_embeddings=256), 4096, rule=rule)
    settings = LlamaConfig(max_position_embeddings=4096).to_dict() | {"rope_scaling": scaling}
    write_json(tmp_path / "config.json", readable_config(settings, config))
    found = AutoConfig.from_pretrained(tmp_path).rope_parameters
    # An older name for rope_type.
    assert {key: value for key, value in found.items() if key != "type"} == config.rope_parameters


def test_dtype_is_written_under_both_names():
    for name in ("dtype", "torch_dtype"):
        assert readable_config({name: "float16"}, GPT2Config()) == {"dtype": "float16", "torch_dtype": "float16"}
    assert readable_config({"dtype": None}, GPT2Config()) == {"dtype": None}


def test_tokenizer_settings_have_no_traces_of_loading():
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "is_local": True,
        "local_files_only": True,
        "pad_token": "<pad>",
    }
    assert readable_tokenizer(settings) == {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    own = {"tokenizer_class": "Qwen2Tokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert readable_tokenizer(own) == own
    both = {"additional_special_tokens": ["<a>"], "extra_special_tokens": ["<b>"]}
    assert readable_tokenizer(both) == {"additional_special_tokens": ["<a>", "<b>"]}


def test_saved_folders_are_readable(tmp_path):
    network = models.load(mini_model_dir("qwen2"), target_length=512)
    tokenizer = AutoTokenizer.from_pretrained(mini_model_dir("llama3"), local_files_only=True)
    folder = models.save(network, tokenizer, tmp_path / "saved")
    assert read_json(folder / "config.json")["rope_theta"] == rope_theta(network.config)
    settings = read_json(folder / "tokenizer_config.json")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and not {"is_local", "local_files_only"} & {
        *settings
    }
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 1 and modes.pop() & 0o400
    assert torch.equal(models.load(folder).lm_head.weight, network.lm_head.weight)
    assert read_json(tidy(folder, use_cache=False) / "config.json")["use_cache"] is False


@pytest.mark.parametrize("model", FAMILIES)
def test_shipped_minis_have_old_and_new_names(model):
    settings = read_json(mini_model_dir(model) / "config.json")
    assert (
        settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == (5.0e5 if model == "llama3" else 1.0e6)
    )
    assert settings["torch_dtype"] == settings["dtype"] == "float16"
    tokenizer = read_json(mini_model_dir(model) / "tokenizer_config.json")
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast" and tokenizer == readable_tokenizer(tokenizer)


def test_unreadable_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not readable JSON .*download or save it again"):
        read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {"b": "é", "a": 1})
    assert (tmp_path / "config.json").read_text() == '{\n  "b": "é",\n  "a": 1\n}\n'
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1, "b": "é"}
