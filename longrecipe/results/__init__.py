"""Finished runs as tables: what a run measured, its rows in results/, and the table and claims of one run."""

from longrecipe.results import revisions
from longrecipe.results.lookup import by_setting, collect, find, finished, load
from longrecipe.results.rows import analysis_rows, depth_rows, document_rows, joined, loss_rows, merge_rows, score_rows
from longrecipe.results.run import TABLES, Run, run_name
from longrecipe.results.stages import claims, gain, next_to_committed, run_tables, stage_table, training_table
from longrecipe.results.store import grid_dir, run_dir, save
from longrecipe.results.titles import needles_title, titled

__all__ = [
    "TABLES",
    "Run",
    "analysis_rows",
    "by_setting",
    "claims",
    "collect",
    "depth_rows",
    "document_rows",
    "find",
    "finished",
    "gain",
    "grid_dir",
    "joined",
    "load",
    "loss_rows",
    "merge_rows",
    "needles_title",
    "next_to_committed",
    "revisions",
    "run_dir",
    "run_name",
    "run_tables",
    "save",
    "score_rows",
    "stage_table",
    "titled",
    "training_table",
]
