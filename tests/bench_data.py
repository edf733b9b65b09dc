"""Small datasets in the hub's layout, five rows each, for all benchmarks, and a stub of the metric code_eval."""

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from longrecipe.bench.suites import tasks_folder

_ANSWERS = {"passage_retrieval_en": "Paragraph {}", "passage_retrieval_zh": "\u6bb5\u843d{}", "passage_count": "{}"}
_CODE_EVAL = """
import datasets
import evaluate


class CodeEval(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": datasets.Sequence(text), "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, k):
        right = 0
        for (program,), test in zip(predictions, references):
            try:
                exec(program + "\\n" + test, {})
                right += 1
            except Exception:
                pass
        return {"pass@1": right / len(references)}, {}
"""


def write_data(folder: Path) -> Path:
    """All datasets below a folder. Returns the folder."""
    mmlu = _configs("mmlu/default", "mmlu_*.yaml")
    _dataset(
        folder / "cais" / "mmlu",
        dict.fromkeys(mmlu, ("dev", "test")),
        lambda name, i: {"question": f"{name} {i}?", "choices": ["one", "two", "three", "four"], "answer": i % 4},
    )
    _dataset(
        folder / "openai" / "gsm8k",
        {"main": ("train", "test")},
        lambda _, i: {"question": f"What is {i} and 2?", "answer": f"It is {i + 2}.\n#### {i + 2}"},
    )
    _dataset(
        folder / "openai" / "openai_humaneval",
        {"openai_humaneval": ("test",)},
        lambda _, i: {
            "prompt": f"def f{i}(x):\n",
            "entry_point": f"f{i}",
            "test": f"def check(f):\n    assert f({i}) == {i}\n",
        },
    )
    _dataset(
        folder / "Xnhyacinth" / "LongBench",
        dict.fromkeys(_configs("longbench", "[!_]*.yaml"), ("test",)),
        lambda name, i: {
            "question": f"Question {i}?",
            "context": "Some text. " * 20,
            "answers": [_ANSWERS.get(name, "answer {}").format(i)],
            "all_classes": ["one", "two"],
        },
    )
    _dataset(
        folder / "baber" / "paul_graham_essays",
        {"default": ("train",)},
        lambda _, i: {"text": f"This is essay {i}. It is about many things, as essays are! Is it? It is. " * 60},
    )
    (folder / "ruler").mkdir()
    paragraphs = [
        {
            "context": f"Town {i} is at river {i}. " * 3,
            "qas": [
                {
                    "question": f"Where is town {i}?",
                    "is_impossible": False,
                    "answers": [{"text": f"river {i}"}, {"text": f"at river {i}"}],
                }
            ],
        }
        for i in range(60)
    ]
    (folder / "ruler" / "dev-v2.0.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    hotpot = [
        {
            "question": f"Which town is number {i}?",
            "answer": f"town {i}",
            "context": [[f"Page {i}-{j}", [f"Town {i} is on page {j}. "]] for j in range(10)],
        }
        for i in range(12)
    ]
    (folder / "ruler" / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot))
    (folder / "code_eval").mkdir()
    (folder / "code_eval" / "code_eval.py").write_text(_CODE_EVAL)
    return folder


class _Loader(yaml.SafeLoader):
    """Reads the harness's files of tasks without their functions."""


_Loader.add_multi_constructor("!function", lambda loader, suffix, node: None)


def _configs(folder: str, pattern: str) -> list[str]:
    files = sorted((tasks_folder() / folder).glob(pattern))
    return [yaml.load(f.read_text("utf-8"), _Loader)["dataset_name"] for f in files if not f.stem.endswith("_e")]


def _dataset(folder: Path, configs: dict[str, tuple[str, ...]], row: Callable[[str, int], dict]) -> None:
    entries = []
    for config, splits in configs.items():
        (folder / config).mkdir(parents=True)
        rows = "".join(json.dumps(row(config, i)) + "\n" for i in range(5))
        for split in splits:
            (folder / config / f"{split}.jsonl").write_text(rows)
        files = [{"split": split, "path": f"{config}/{split}.jsonl"} for split in splits]
        entries.append({"config_name": config, "data_files": files})
    card = yaml.safe_dump({"configs": entries})
    (folder / "README.md").write_text(f"---\n{card}---\n")
