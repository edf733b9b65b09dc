"""`longrecipe push`: upload an extended model to the hub."""

import argparse
import sys
from pathlib import Path

HELP = "Upload an extended model with its model card to the Hugging Face hub."
EXAMPLES = """\
  longrecipe push my-model-long me/my-model-long --dry-run
  longrecipe push my-model-long me/my-model-long --private

FOLDER is what `longrecipe train` wrote. The command checks that it is complete and that its README.md states a licence.
You need to be logged in (`hf auth login`), except for --dry-run, which only lists the files.
"""
INTERRUPTED = "run the same command again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder, the repository and the options of the upload."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder of the extended model")
    parser.add_argument("repository", metavar="REPO", help="where to upload it: owner/name; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="upload to this branch; made if it does not exist")
    parser.add_argument("--dry-run", action="store_true", help="check the folder and list its files, without uploading")


def run(chosen: argparse.Namespace) -> None:
    """Check the folder; list its files, or upload them and print the address."""
    from longrecipe.recipe import push
    from longrecipe.system.paths import user_path

    if not chosen.dry_run:
        url = push.push(chosen.folder, chosen.repository, private=chosen.private, revision=chosen.revision)
        sys.stdout.write(f"{url}\n")
        return
    push.check_repository(chosen.repository)
    files = push.check_folder(user_path(chosen.folder))
    for name, n_bytes in files.items():
        sys.stdout.write(f"{n_bytes / 1e6:12,.3f} MB  {name}\n")
    sys.stdout.write(f"{sum(files.values()) / 1e6:12,.3f} MB  in {len(files)} files would go to {chosen.repository}\n")
