"""An interpreter that has already imported torch, for tests that start many short processes.

`python warm.py SOCKET PARENT` is the server: it forks a process for each command, and ends when the process with the id
PARENT ends. The program that `warm_python` makes is the client, which replaces `python`: it sends its arguments,
folder, environment, standard streams and limit of file size to the server, and ends as the command does. So each
command saves the seconds that importing torch takes. The client forwards SIGTERM and SIGINT to the command, and a
command whose client ends is killed by SIGKILL; so a kill of the client is one of the command.
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLIENT = """#!{python} -IS
import array, json, os, resource, signal, socket, sys
if sys.argv[1] == "-":  # a program on standard input, which the server cannot read
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), limit]).encode()
link.sendmsg([b"0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
link.sendall(len(request).to_bytes(4, "big") + request)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: link.send(bytes([number])))
status = int(link.recv(16) or b"70")
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


PR_SET_PDEATHSIG = 1  # of prctl(2)


@contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """Runs a server during the `with` block; yields the path of the program to use as `python`."""
    address, client = folder / "socket", folder / "python"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent.parent),
    }
    server = subprocess.Popen([sys.executable, __file__, str(address), str(os.getpid())], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not address.exists():
            assert server.poll() is None and time.monotonic() < deadline, "the warm interpreter did not start"
            time.sleep(0.05)
        client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        client.chmod(0o755)
        yield client
    finally:
        server.kill()
        server.wait()


def end_with_parent(parent: int) -> None:
    """Lets the kernel kill this process as soon as its parent ends in any way. `parent` is the parent's process id."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before
            os._exit(1)


def serve(address: str, parent: int) -> None:
    """Runs the commands of all clients that connect to the socket at `address`, each in a process of its own."""
    end_with_parent(parent)
    import matplotlib.pyplot  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch._dynamo  # noqa: F401 - as an optimizer does before its first step
    import torchvision  # noqa: F401

    from tests.support.networks import small_networks

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nothing waits for the forked processes
    sys.executable = str(Path(address).with_name("python"))  # for commands that start others
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen()
    Path(address + ".new").rename(address)  # clients find the socket only when it listens
    server = os.getpid()
    with small_networks():
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                end_with_parent(server)
                answer(connection)
            connection.close()


def answer(connection: socket.socket) -> None:
    """Runs one client's command in a child process and sends the exit status to the client; ends this process."""
    size = array.array("i").itemsize
    _, rights, _, _ = connection.recvmsg(1, socket.CMSG_LEN(3 * size))
    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    words, folder, environment, limit = json.loads(connection.recv(length, socket.MSG_WAITALL))
    streams = array.array("i", rights[0][2][: 3 * size])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own_id = os.getpid()
    child = os.fork()
    if child == 0:
        end_with_parent(own_id)
        for target, source in enumerate(streams):
            os.dup2(source, target)
        for target, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            stream = open(target, mode, buffering=1, closefd=False)  # noqa: SIM115 - stays open
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
        os.chdir(folder)
        os.environ.update(environment)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        status = run(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    threading.Thread(target=forward_signals, args=(connection, child), daemon=True).start()
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):  # the client was killed
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def forward_signals(connection: socket.socket, child: int) -> None:
    """Sends the child the signals whose numbers the client sends, and SIGKILL when the client ends."""
    with suppress(ProcessLookupError):
        while numbers := connection.recv(16):
            for number in numbers:
                os.kill(child, number)
        os.kill(child, signal.SIGKILL)


def run(words: list[str]) -> int:
    """Runs `python WORDS`, a script or `-m MODULE`; returns its exit status. Prints the traceback of an exception."""
    words = words[words[0] == "-u" :]  # which torchrun gives; streams are flushed at each line
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
