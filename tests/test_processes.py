import threading
import time

from limits import TIMEOUT

from longrecipe.system.processes import is_main, made_once, n_processes


def test_single_process_is_the_main_process():
    assert is_main() and n_processes() == 1


def test_main_process_makes_a_path_once(tmp_path):
    path, calls = tmp_path / "made", []
    for _ in range(2):
        assert made_once(path, lambda: calls.append(1) or path.mkdir(), "makes it") == path
    assert calls == [1]


def test_other_processes_wait_for_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path, calls, seen = tmp_path / "made", [], []
    waiting = threading.Thread(target=lambda: seen.append(made_once(path, lambda: calls.append(1), "makes it")))
    waiting.start()
    time.sleep(0.2)
    assert not seen
    path.mkdir()
    waiting.join(TIMEOUT)
    assert seen == [path] and calls == [] and not is_main() and n_processes() == 2
