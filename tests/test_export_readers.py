"""Exports read by transformers 4.57, which knows nothing of the names that transformers 5 introduced.

The tests install it into an environment of their own, which shares torch with this one: about a minute.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import model_cases as cases
import pytest
import torch
from limits import TIMEOUT
from model_cases import TARGET, TEXT

from longrecipe import models
from longrecipe.recipe.export import export
from longrecipe.system.paths import mini_model_dir

pytestmark = pytest.mark.slow
READER = "transformers==4.57.6"
KINDS = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "phi", "stablelm", "gptneox")
MINIS = sorted(folder.name for folder in mini_model_dir("").iterdir() if folder.is_dir())
# Run by the other environment, once for all folders: it prints what it finds in each, or what was raised.
_READ = """
import json, sys, traceback
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

def read(folder, ids, text):
    config = transformers.AutoConfig.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    x = torch.tensor([ids])
    with torch.inference_mode():
        logits = network(input_ids=x).logits[0, ::37]
        said = network.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=4, do_sample=False)[0, len(ids):]
    tokenizers = {}
    for reader in (AutoTokenizer, PreTrainedTokenizerFast):
        tokenizer = reader.from_pretrained(folder)
        chat = [{"role": "user", "content": "Hi"}]
        tokenizers[reader.__name__] = {
            "ids": tokenizer(text)["input_ids"],
            "cut": len(tokenizer(text * 300, truncation=True)["input_ids"]),
            "special": sorted(tokenizer.all_special_tokens),
            "chat": tokenizer.chat_template and tokenizer.apply_chat_template(chat, tokenize=False),
        }
    return {
        "theta": config.rope_theta, "window": config.max_position_embeddings, "dtype": str(config.dtype),
        "logits": logits.tolist(), "said": said.tolist(), "tokenizers": tokenizers,
    }

asked, found = json.load(sys.stdin), {}
for name, (folder, ids) in asked["folders"].items():
    try:
        found[name] = read(folder, ids, asked["text"])
    except Exception:
        found[name] = {"error": traceback.format_exc()}
print(json.dumps({"version": transformers.__version__, "found": found}))
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The Python of an environment with the older transformers; without a package index the tests fail."""
    folder = tmp_path_factory.mktemp("reader") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=TIMEOUT)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    # Its own packages come first; torch and what it needs are taken from here.
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", READER]
    done = subprocess.run(install, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{READER} cannot be installed: {done.stderr[-2000:]}"
    return python


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """An export of each kind, and of each form of a base, as (folder, ids of a prompt beyond the old window)."""
    place = tmp_path_factory.mktemp("exports")

    def make(name, kind="llama", change=lambda folder: None, **changes):
        base = cases.base(place / name / "base", kind, **changes)
        change(base)
        out = place / name / "out"
        return export(cases.settings(base, out), cases.stage(base, place / name / "stage"), {"text": "abc"})

    special = {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    folders = {kind: make(kind, kind, dtype=torch.bfloat16, shard="20KB") for kind in KINDS}
    folders["old style"] = make("old", change=cases.old_style)
    folders["special tokens"] = make(
        "special", change=lambda base: cases.edit_json(base / "tokenizer_config.json", **special)
    )
    folders["without the old names"] = make("new")
    cases.edit_json(folders["without the old names"] / "config.json", drop=("rope_theta",))
    ids = [(7 * i + i // 5) % 300 for i in range(int(0.9 * TARGET))]
    return {name: (folder, ids) for name, folder in folders.items()} | {
        f"mini {model}": (mini_model_dir(model), ids[:250]) for model in MINIS
    }


@pytest.fixture(scope="module")
def found(reader, exports):
    """What the other environment finds in every folder."""
    asked = {"text": TEXT, "folders": {name: (str(folder), ids) for name, (folder, ids) in exports.items()}}
    command = [str(reader), "-c", _READ]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=TIMEOUT, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["version"] == READER.split("==")[1] and "Unrecognized" not in done.stderr
    return answer["found"]


def difference(there, folder, ids):
    """The largest difference between the logits found there and those of this process, at every 37th position."""
    with torch.inference_mode():
        here = models.load(folder)(input_ids=torch.tensor([ids])).logits[0, ::37]
    assert here.std() > 0.1
    return (torch.tensor(there["logits"]) - here).abs().max().item()


def agrees(there, folder, ids):
    """Check that a folder's model is the same there and here."""
    assert "error" not in there, there["error"]
    assert difference(there, folder, ids) <= 1e-4
    network, x = models.load(folder), torch.tensor([ids])
    said = network.generate(x, attention_mask=torch.ones_like(x), max_new_tokens=4, do_sample=False)
    assert there["said"] == said[0, len(ids) :].tolist() != []
    written = json.loads((folder / "config.json").read_text())["rope_theta"]
    assert there["theta"] == written == network.config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("kind", KINDS)
def test_versions_read_exports_of_all_architectures_alike(kind, found, exports):
    there = found[kind]
    agrees(there, *exports[kind])
    assert (there["window"], there["dtype"]) == (TARGET, "torch.bfloat16") and there["theta"] > 1e5
    for name, each in there["tokenizers"].items():
        assert each["ids"] == cases.tokenizer()(TEXT)["input_ids"], name
        assert each["cut"] == TARGET and each["special"] == ["<|endoftext|>"]
        assert each["chat"] == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize("form", ["old style", "special tokens"])
def test_versions_read_exports_of_other_forms_alike(form, found, exports):
    agrees(found[form], *exports[form])
    special = ["<|endoftext|>"] + (["<|im_end|>", "<|im_start|>"] if form == "special tokens" else [])
    assert all(each["special"] == special for each in found[form]["tokenizers"].values())


@pytest.mark.parametrize("model", MINIS)
def test_versions_read_exports_of_the_minis_alike(model, found, exports):
    there = found[f"mini {model}"]
    agrees(there, *exports[f"mini {model}"])
    assert there["theta"] == (5.0e5 if model.startswith("llama3") else 1.0e6)
    assert there["tokenizers"]["PreTrainedTokenizerFast"]["ids"] == models.load_tokenizer(model)(TEXT)["input_ids"]


def test_older_version_needs_the_old_names(found, exports):
    # So the checks above can fail.
    there = found["without the old names"]
    assert there["theta"] == 1.0e4 and difference(there, *exports["without the old names"]) > 0.01
