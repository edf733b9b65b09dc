"""Send a command to `warm_server.py`, wait for the end of its process, and end in the same way."""

import os
import signal
import socket
import struct
import sys


def main(path: str, *words: str) -> None:
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    data = b"\0".join(map(os.fsencode, [os.getcwd(), str(len(words)), *words, *variables]))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [struct.pack("q", len(data))], [0, 1, 2])
        connection.sendall(data)
        (status,) = struct.unpack("i", connection.recv(4, socket.MSG_WAITALL))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


main(*sys.argv[1:])
