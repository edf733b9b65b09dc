"""A fresh process loads an exported folder, and its results are compared with those of this process."""

import json
import shutil

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from longrecipe import models
from longrecipe.recipe.check_export import check_export

PROMPT = "The import statement finds a module.\n\nIt binds it to a name."


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a saved mini model with a raised window, and the model in this process."""
    network = models.load("llama3", target_length=1024)
    folder = models.save(network, models.load_tokenizer("llama3"), tmp_path_factory.mktemp("exported") / "model")
    return folder, network


@pytest.mark.slow
def test_fresh_process_gives_the_same_logits_and_continuation(exported):
    (folder, network), tokenizer = exported, models.load_tokenizer("llama3")
    found = check_export(folder, network, tokenizer, prompt=PROMPT, n_tokens=5)
    assert (found.architecture, found.window, found.tokenizer) == ("LlamaForCausalLM", 1024, "AutoTokenizer")
    assert 0 <= found.difference < 1e-4 and found.rounding == 0
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    said = network.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert found.said == tokenizer.decode(said) != ""


@pytest.mark.slow
def test_another_model_is_an_error(exported, warm_children):
    folder, network = exported
    tokenizer = models.load_tokenizer("llama3")
    with pytest.raises(RuntimeError, match=r"the logits of a fresh process differ by 0, more than -1"):
        check_export(folder, network, tokenizer, prompt=PROMPT, tolerance=-1)
    with pytest.raises(RuntimeError, match=r"its RoPE base is [\d,]+, but the measured model's is 500,000"):
        check_export(folder, models.load("llama3"), tokenizer, prompt=PROMPT, n_tokens=1)
    other = models.load("llama3", target_length=1024)
    with torch.no_grad():
        other.model.layers[2].mlp.up_proj.weight[3, 5] += 0.01
    with pytest.raises(RuntimeError, match=r"model\.layers\.2\.mlp\.up_proj\.weight differs .* more than rounding"):
        check_export(folder, other, tokenizer, prompt=PROMPT, n_tokens=1)


@pytest.mark.slow
def test_unreadable_folder_error_gives_the_reason(exported, tmp_path, warm_children):
    folder, network = exported
    broken = shutil.copytree(folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "nothing_known"}))
    with pytest.raises(RuntimeError, match=r"plain transformers cannot load .*broken: .*nothing_known"):
        check_export(broken, network, models.load_tokenizer("llama3"), prompt=PROMPT)


@pytest.mark.slow
def test_tokenizer_with_other_tokens_is_an_error(exported, bpe, warm_children):
    folder, network = exported
    with pytest.raises(RuntimeError, match="its tokenizer splits the prompt differently"):
        check_export(folder, network, bpe, prompt=PROMPT)


@pytest.mark.slow
def test_result_names_the_class_that_reads_the_tokenizer(tmp_path, warm_children):
    # AutoTokenizer chooses a class by the architecture, and so splits blank lines as Qwen2 does.
    network, tokenizer = models.load("qwen2", dtype=torch.bfloat16), models.load_tokenizer("qwen2")
    found = check_export(models.save(network, tokenizer, tmp_path), network, tokenizer, prompt=PROMPT, n_tokens=1)
    assert (found.tokenizer, found.difference) == (PreTrainedTokenizerFast.__name__, 0)


def test_folder_has_the_raised_rope_base(exported):
    folder, network = exported
    with torch.inference_mode():
        x = torch.arange(200)[None]
        assert torch.equal(models.load(folder)(input_ids=x).logits, network(input_ids=x).logits)
