"""The driver's side of a peer: starts it, talks to it, ends it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import names

HERE = Path(__file__).resolve().parent
STOP_TIMEOUT_S = 10
LOG_SHOWN = 3000


class PeerError(Exception):
    """A peer that did not start, ended, or answered with an error."""


@dataclass(frozen=True)
class Setting:
    """What all peers of one run have in common."""

    model_dir: Path
    exports: Path
    workloads: Path
    engine_bin: Path | None
    tei: str | None
    # The client of embedring-benches and the embedring binary, for the stage `clients`.
    client_bin: Path | None = None
    binary: Path | None = None

    def command(self, engine: str, threads: int) -> list[str]:
        shared = ["--model-dir", str(self.model_dir), "--threads", str(threads)]
        shared += ["--workloads", str(self.workloads)]
        if engine in names.OURS:
            if self.engine_bin is None:
                raise PeerError(f"{engine} needs --engine-bin")
            return [str(self.engine_bin), "--precision", names.OURS[engine], *shared]
        script = [sys.executable, str(HERE / "peer.py"), "--engine", engine]
        url = ["--url", self.tei] if engine == "tei" and self.tei else []
        return [*script, *shared, "--exports", str(self.exports), *url]


def environment(threads: int) -> dict[str, str]:
    """Every library that starts threads by a variable gets as many as the peer is allowed.

    Waiting is left as each library does it by default: ONNX Runtime and OpenMP spin for some
    hundred microseconds after an operation and then sleep, which is to their advantage within a
    call and costs nothing between two visits.
    """
    count = str(threads)
    variables = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"]
    # Made for older builds of OpenBLAS on this kind of machine; the pinned NumPy is not slowed.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    parallel = "true" if threads > 1 else "false"
    return {
        **kept,
        **dict.fromkeys(variables, count),
        "TOKENIZERS_PARALLELISM": parallel,
        "HF_HUB_OFFLINE": "1",
    }


class Peer:
    """A running engine. As a context it is ended with the block, whatever happened."""

    def __init__(
        self, setting: Setting, engine: str, threads: int, command: list[str] | None = None
    ) -> None:
        """`command` starts another program than the engine's own that talks in the same way."""
        self.engine = engine
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(
            command or setting.command(engine, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
            env=environment(threads),
        )
        try:
            self.ready = self._read()
        except BaseException:
            self.stop()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        self.send(**request)
        return self.answer()

    def send(self, **request: Any) -> None:
        """Asks and goes on, so that several peers work at once; `answer` is due for each."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; reading says so, with its log.

    def answer(self) -> dict[str, Any]:
        return self._read()

    def run(self, workload: str, form: str, seconds: float) -> dict[str, Any]:
        return self.ask(run=workload, form=form, seconds=seconds)

    def embed(self, texts: list[str], form: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.npy"
            self.ask(embed=texts, form=form, path=str(path))
            return np.load(path)

    def peak_rss_bytes(self) -> int:
        return self.ask(memory=True)["peak_rss_bytes"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            tail = self.log.read()[-LOG_SHOWN:]
            raise PeerError(f"{self.engine} ended with {code}; its log ends:\n{tail}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.engine}: {answer['error']}")
        return answer

    def stop(self) -> None:
        # The end of its input is a peer's sign to end.
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
