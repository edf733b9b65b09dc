"""Standard benchmarks by lm-evaluation-harness: RULER, NIAH(M), LongBench, MMLU, GSM8K and HumanEval; own needles.

`prepare` checks what is asked for and makes the prompts; `run` asks the models and keeps the results; `by_suite` and
`differences` score them. The harness is an extra: `pip install 'longrecipe[eval]'`.
"""

from longrecipe.bench.plan import Plan, Subject, check, prepare
from longrecipe.bench.runner import Result, run
from longrecipe.bench.scores import by_suite, by_task, differences
from longrecipe.bench.suites import SUITES

__all__ = ["SUITES", "Plan", "Result", "Subject", "by_suite", "by_task", "check", "differences", "prepare", "run"]
