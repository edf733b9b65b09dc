"""Uploads to a hub. A stub replaces it, so no test needs a connection."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from longrecipe.cli import main
from longrecipe.models.loading import save
from longrecipe.recipe import push as module
from longrecipe.recipe.export import RECORD
from longrecipe.recipe.push import check_folder, push

CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


@pytest.fixture
def folder(make_tiny, tokenizer, tmp_path):
    """An exported model, and a file of the user's that is no part of it."""
    folder = save(make_tiny(), tokenizer, tmp_path / "exported")
    (folder / "README.md").write_text(CARD)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / RECORD).write_text(json.dumps({"made_by": "longrecipe", "bytes": sizes}))
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def hub(monkeypatch):
    """A hub at which someone is logged in; the calls that were made."""
    calls = []

    def call(name, result=None):
        return lambda *given, **options: calls.append((name, given, options)) or result

    names = {"whoami": {"name": "me"}, "create_repo": "https://hub/me/long", "create_branch": None}
    api = SimpleNamespace(**{name: call(name, result) for name, result in names.items()}, upload_folder=call("upload"))
    monkeypatch.setattr(module, "HfApi", lambda: api)
    return api, calls


def exit_of(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        main(["push", *words])
    return stop.value.code, capsys.readouterr().err


def test_push_uploads_the_files_of_the_export_and_prints_the_address(folder, hub, capsys):
    _, calls = hub
    main(["push", str(folder), "me/long", "--private"])
    assert capsys.readouterr().out == "https://hub/me/long\n"
    assert [name for name, *_ in calls] == ["whoami", "create_repo", "upload"]
    assert calls[1][1:] == (("me/long",), {"private": True, "exist_ok": True})
    options = calls[2][2]
    assert (options["repo_id"], options["folder_path"], options["revision"]) == ("me/long", folder, None)
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json", RECORD} <= set(options["allow_patterns"])
    assert "notes.txt" not in options["allow_patterns"]


def test_push_to_a_branch_makes_it_and_prints_its_address(folder, hub):
    _, calls = hub
    assert push(folder, "me/long", revision="v2") == "https://hub/me/long/tree/v2"
    assert calls[1][2]["private"] is None
    assert calls[2] == ("create_branch", ("me/long",), {"branch": "v2", "exist_ok": True})
    assert calls[3][2]["revision"] == "v2"


def test_dry_run_lists_files_and_sizes_without_a_hub(folder, monkeypatch, capsys):
    monkeypatch.setattr(module, "HfApi", lambda: pytest.fail("asked the hub"))
    main(["push", str(folder), "me/long", "--dry-run"])
    *files, total = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in files] == list(check_folder(folder))
    megabytes = sum((folder / name).stat().st_size for name in check_folder(folder)) / 1e6
    assert total.split()[0] == f"{megabytes:.3f}" and total.endswith(f"in {len(files)} files would go to me/long")


def test_edited_card_is_uploaded(folder, hub):
    (folder / "README.md").write_text(CARD + "\nWhat I found with it.\n")
    assert check_folder(folder)["README.md"] == (folder / "README.md").stat().st_size
    assert push(folder, "me/long")


def damage(folder, name):
    path = folder / name
    path.unlink() if name != "model.safetensors" else path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (RECORD, "has no longrecipe.json: name a folder that `longrecipe train` wrote"),
        ("config.json", "config.json is missing: .*export the model again"),
        ("model.safetensors", "model.safetensors has .* bytes instead of"),
        ("README.md", "README.md is missing"),
    ],
)
def test_incomplete_folder_is_an_error_before_the_hub_is_asked(name, message, folder, hub, capsys):
    damage(folder, name)
    code, said = exit_of(capsys, str(folder), "me/long")
    assert code == 1 and said.count("\n") == 1 and not hub[1]
    with pytest.raises(ValueError, match=message):
        check_folder(folder)


def test_folder_without_tokenizer_or_licence_is_an_error(folder):
    record = json.loads((folder / RECORD).read_text())
    (folder / "README.md").write_text("# A model\n")
    with pytest.raises(ValueError, match=r"states no licence: add a line such as `license: apache-2.0`"):
        check_folder(folder)
    del record["bytes"]["tokenizer.json"]
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="has no tokenizer"):
        check_folder(folder)
    (folder / RECORD).write_text("[]")
    with pytest.raises(ValueError, match="is not the record of an export"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["long", "me/long@v2", "a/b/c"])
def test_name_without_owner_or_with_revision_is_an_error(name, folder, hub):
    with pytest.raises(ValueError, match="write owner/name"):
        push(folder, name)


def test_who_is_not_logged_in_learns_how(folder, hub, capsys):
    api, calls = hub

    def refuse():
        raise LocalTokenNotFoundError("Token is required")

    api.whoami = refuse
    code, said = exit_of(capsys, str(folder), "me/long")
    assert code == 1 and "not logged in to the hub (Token is required): run `hf auth login`" in said and not calls


def test_failed_upload_says_what_to_do(folder, hub, capsys):
    api, _ = hub

    def break_off(**options):
        raise TimeoutError("timed out")

    api.upload_folder = break_off
    code, said = exit_of(capsys, str(folder), "me/long")
    assert code == 1 and "the upload to me/long failed (timed out)" in said and "run the same command again" in said
