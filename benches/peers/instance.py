"""A running instance of embedring, as a user would start it."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

READY_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10


class Instance:
    """A running `embedring up`, ended with all its processes when the block ends."""

    def __init__(self, binary, config=None, suffix=""):
        """`config` is the text of a configuration file; without one, the user's own is used."""
        self.binary = str(binary)
        self.name = f"peers-{os.getpid()}{suffix}"
        self.config = config

    def command(self, *args):
        return [self.binary, args[0], "--instance", self.name, *args[1:]]

    def _up(self):
        command = self.command("up")
        if self.config is not None:
            self.config_file = tempfile.NamedTemporaryFile(mode="w", suffix=".toml")
            self.config_file.write(self.config)
            self.config_file.flush()
            command += ["--config", self.config_file.name]
        return command

    def __enter__(self):
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")
        self.process = subprocess.Popen(
            self._up(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        # A thread, since a pipe has no read with a time limit; it also keeps the pipe empty.
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._wait_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _wait_ready(self):
        end = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self._fail(f"not ready after {READY_TIMEOUT_S} s")
            if line is None:
                self._fail(f"ended before it was ready, with {self.process.wait()}")
            if line.startswith("ready"):
                return

    def _fail(self, why):
        self.log.seek(0)
        sys.exit(f"`{' '.join(self.command('up'))}`: {why}\n{self.log.read()[-4000:]}")

    def embed(self, texts):
        """The vectors and the token counts that embedring reports, in the order of `texts`."""
        done = subprocess.run(
            self.command("embed", "--output", "jsonl"),
            input="".join(f"{text}\n" for text in texts),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        errors = [row for row in rows if "error" in row]
        if done.returncode != 0 or errors:
            sys.exit(f"`embedring embed` ended with {done.returncode}; {errors[:3]}")
        if [row["index"] for row in rows] != list(range(len(texts))):
            sys.exit(f"`embedring embed` answered {len(rows)} rows, or not in order")
        return rows

    def _stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            why = f"did not stop in {STOP_TIMEOUT_S} s and was killed"
            print(f"`embedring up` {why}", file=sys.stderr)

    def __exit__(self, *_):
        self._stop()
        self.log.close()
