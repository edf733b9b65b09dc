"""A server that has imported torch and transformers, and forks a process for every command of `warm_client.py`.

A process starts in an instant instead of ten seconds. It has its own arguments, environment, folder and files, and a
`__main__` of its own. The package under test is not imported here, so each process imports it itself.
"""

import atexit
import gc
import importlib
import os
import random
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import types

import numpy as np
from tqdm.auto import tqdm

# What the package and its tests import of other packages, as far as it takes long.
SLOW = """accelerate datasets pandas pyarrow.parquet pydantic scipy.stats torch.distributed.fsdp torch.distributed.run
transformers.integrations.sdpa_attention transformers.masking_utils transformers.models.auto.modeling_auto
transformers.models.llama.modeling_llama transformers.trainer"""
PATHS = sys.path[1:]


def received(connection: socket.socket) -> tuple[list[bytes], list[int]]:
    """What a client sends: its folder, the number of its arguments, these, its environment; and its open files."""
    start, files, _, _ = socket.recv_fds(connection, 8, 3)
    (size,) = struct.unpack("q", start)
    with connection.makefile("rb", buffering=0) as stream:
        data = b""
        while len(data) < size:
            data += stream.read(size - len(data))
    return data.split(b"\0"), files


def execute(words: list[str]) -> None:
    """Do what python does with these arguments: -c CODE, -m MODULE or a file, each with arguments of its own."""
    while words[0] == "-u":
        words = words[1:]
    if words[0] == "-c":
        code, sys.argv = words[1], ["-c", *words[2:]]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    elif words[0] == "-m":
        name, sys.argv = words[1], ["-m", *words[2:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


def work(parts: list[bytes], files: list[int]) -> int:
    """Take over the files, the folder and the environment of a client, and do its work; the exit status."""
    for place, file in enumerate(files):
        os.dup2(file, place)
    folder, count, *rest = (os.fsdecode(part) for part in parts)
    words, variables = rest[: int(count)], rest[int(count) :]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variable.split("=", 1) for variable in variables)
    sys.path[:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *PATHS]
    random.seed()
    np.random.seed()  # noqa: NPY002
    try:
        execute(words)
    except SystemExit as left:
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def attend(connection: socket.socket) -> None:
    """Do the work of a client in a child; send the exit status, or kill the child if the client is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parts, files = received(connection)
    child = os.fork()
    if child == 0:
        connection.close()
        status = work(parts, files)
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, connection], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    connection.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))


def serve(path: str) -> None:
    """Fork a process for every client, until the process that has started this one ends, which closes its input."""
    for name in SLOW.split():
        importlib.import_module(name)
    # Its usual lock is one of several processes, which killed ones leave behind.
    tqdm.set_lock(threading.RLock())
    # What is imported is no garbage, and looking for some takes time in every process.
    gc.freeze()
    # Nobody waits for the processes that attend to clients.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        os.rename(f"{path}.new", path)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                try:
                    attend(connection)
                finally:
                    os._exit(0)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
