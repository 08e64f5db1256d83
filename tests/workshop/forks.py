"""`bertpipe` commands as forks of one process that has loaded what they load: tests start hundreds of them.

In: arguments, and a folder to run in. Out: exit code, standard output, standard error. What always holds: a command is
a process of its own, from its arguments to its exit handlers, and so is each rank that it starts; only the loading of
torch, DeepSpeed and the like, more than half of a short command, is done once, and Python is left without being taken
apart.
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]

_SECONDS = 280
_PROGRAM = "from workshop.forks import serve; serve()"


class Forks:
    """Starts commands; one at a time."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._server = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def run(self, arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run `bertpipe ARGUMENTS` in `folder` to its end."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
            wanted = {
                "arguments": list(arguments),
                "folder": str(folder),
                "streams": [f"/proc/{os.getpid()}/fd/{stream.fileno()}" for stream in (said, complained)],
            }
            self._server.stdin.write(json.dumps(wanted) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, _content(said), _content(complained))

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def _content(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()


def serve() -> None:
    """Fork a process for each line of JSON on standard input; answer with its exit code."""
    # First, so that it runs last, after the handlers of what is loaded here.
    atexit.register(_leave)
    import pyarrow.parquet  # noqa: F401
    import tokenizers  # noqa: F401

    import pipeline.cli  # noqa: F401
    from pipeline.training.joining import load_deepspeed

    load_deepspeed()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], folder: str, streams: list[str]) -> None:
    from pipeline import ending
    from pipeline.cli import main
    from pipeline.training import launch

    # It would be registered now, and so run before them.
    ending._leave = lambda: None
    launch.subprocess = _Forking()  # type: ignore[assignment]
    signal.alarm(_SECONDS)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY), number)
    sys.argv = ["bertpipe", *arguments]
    main()


class _Forking:
    """What `launch` starts ranks with: forks, too."""

    def Popen(self, command: Sequence[str], *, env: dict[str, str], start_new_session: bool) -> "_Rank":  # noqa: N802
        assert command[1:3] == ["-P", "-c"]
        assert start_new_session
        return _Rank(command[3], command[4:], env)


class _Rank:
    """A rank as `subprocess.Popen` would have it: its program, its environment, a session of its own."""

    def __init__(self, program: str, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_DFL)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["-c", *arguments]
            exec(program, {"__name__": "__main__"})
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc()
        # The launcher's own frames, which lie below, are not to be left through.
        atexit._run_exitfuncs()

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int | None:
        return self._waited(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _waited(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def _leave() -> None:
    from pipeline import ending

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending._code)
