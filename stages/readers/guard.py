"""Runs `page` in a process of its own, so that a hostile page costs that page and not the run.

Gives pages, gets texts or faults; a process that a page killed is started anew for the next one. The one trade-off: a
process start (0.05 s) for each shard and each killed page, and a fifth of the speed (32 MB/s of HTML for 40).
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any, NamedTuple

from stages.readers.page import ERROR, READY, framed, receive

CHUNK_BYTES = 1 << 20
"""Bytes of pages sent at a time: all are received before the first is answered, so neither side waits for the other."""

PROGRAM = """\
import ctypes, json, runpy, sys
getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)(1, 9, 0, 0, 0)
sys.path[:] = json.loads(sys.argv.pop(1))
runpy.run_module("stages.readers.page", run_name="__main__")
"""
"""Runs `page` with this process's search path, whatever lies in the working directory; on Linux it ends (SIGKILL) when
this process does, even in the middle of a page."""


class Text(NamedTuple):
    """A page that was read: text and title, UTF-8, and the charset it was read with."""

    text: bytes
    title: bytes
    charset: str


class Fault(NamedTuple):
    """A page that was not: a short slug, and what happened."""

    reason: str
    detail: str


class Guard:
    """The process, while a `with` lasts; started for the first page."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: what `page.serve` takes."""
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> Guard:
        """Starts nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the process."""
        self._end()

    def extract(self, pages: Sequence[tuple[str, bytes]]) -> list[Text | Fault]:
        """(Content-Type, bytes) of pages → what came of each, in order."""
        results: list[Text | Fault] = []
        while len(results) < len(pages):
            process, last, size = self._running(), len(results), 0
            while last < len(pages) and (size == 0 or size + len(pages[last][1]) <= CHUNK_BYTES):
                size += len(pages[last][1])
                last += 1
            results += self._chunk(process, pages[len(results) : last])
        return results

    def _chunk(self, process: subprocess.Popen[bytes], pages: Sequence[tuple[str, bytes]]) -> list[Text | Fault]:
        """Results of the first pages: all, or up to the one that killed the process."""
        if process.stdin is None or process.stdout is None:
            raise ValueError("the extractor has no pipes")
        results: list[Text | Fault] = []
        frames = [framed(content_type.encode(errors="replace"), data) for content_type, data in pages]
        try:
            process.stdin.write(b"".join([framed(struct.pack("<I", len(pages))), *frames]))
            process.stdin.flush()
            for _ in pages:
                kind = process.stdout.read(1)
                if kind == ERROR:
                    results.append(Fault("page_error", receive(process.stdout).decode()))
                    continue
                text, title, charset = receive(process.stdout), receive(process.stdout), receive(process.stdout)
                results.append(Text(text, title, charset.decode()))
        except (EOFError, BrokenPipeError):
            results.append(self._death(process.wait()))
            self._end()
        return results

    def _death(self, status: int) -> Fault:
        if status == -signal.SIGPROF:
            return Fault("page_timeout", f"over {self.settings['timeout_seconds']:g} s of CPU time")
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        return Fault("page_crash", f"the extractor died of it: {how}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path), json.dumps(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "RUST_BACKTRACE": "0"},
            )
            if self._process.stdout is None or self._process.stdout.read(1) != READY:
                self._errors.seek(0)
                said = self._errors.read()[-2000:].decode(errors="replace")
                self._end()
                raise RuntimeError(f"the page extractor did not start:\n{said}")
        return self._process

    def _end(self) -> None:
        if self._process is not None and self._errors is not None:
            self._process.kill()  # it holds nothing that it could lose
            self._process.communicate()
            self._errors.close()
        self._process = self._errors = None
