"""Runs `page` in a process of its own, so that a hostile page costs that page and not the run.

Gives pages, gets texts or faults. What is held against a page is only what it does again in a fresh process, alone:
a process may die for reasons of the machine. Where those last, ChildProcessError stops the task. The one trade-off: a
process start (0.05 s) for each shard, and some for each page that kills one, and a fifth of the speed (32 MB/s of HTML
for 40).
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from stages.readers.page import FAULT, READY, framed, receive

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

ATTEMPTS = 3
"""Fresh processes that a page must end, alone, before it is blamed; and starts of a process before the machine is."""

PATIENCE = 4
"""How many times its usual CPU time a page gets when it is tried alone."""

HARMLESS = ("text/html; charset=utf-8", b"<html><body><p>A harmless page.</p></body></html>")
FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU, signal.SIGPIPE}
)
"""Signals that no page can cause: someone kills the process, or the kernel does for want of memory."""


class Text(NamedTuple):
    """A page that was read: text and title, UTF-8, and the charset it was read with."""

    text: bytes
    title: bytes
    charset: str


class Fault(NamedTuple):
    """A page that was not: a short slug, and what happened."""

    reason: str
    detail: str


class _Extractor:
    """One process, started and ready. Raises ChildProcessError where it does not start."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        for _ in range(ATTEMPTS):
            said, status = self._start()
            if said is None:
                return
            if status >= 0:
                break
        raise ChildProcessError(f"the page extractor did not start ({_manner(status)}):\n{said}")

    def _start(self) -> tuple[str | None, int]:
        """Starts the process. Where it ends before it is ready, what it said and its exit status; else None."""
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, json.dumps(sys.path), json.dumps(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "RUST_BACKTRACE": "0"},
            )
            if self._process.stdout is not None and self._process.stdout.read(1) == READY:
                return None, 0
            status = self._process.wait()
            self.end()
            errors.seek(0)
            return errors.read()[-2000:].decode(errors="replace"), status

    def answers(self, pages: Sequence[tuple[str, bytes]]) -> Iterator[Text | Fault]:
        """What comes of the pages, in order. Raises EOFError or BrokenPipeError where the process is gone."""
        send, pipe = self._process.stdin, self._process.stdout
        if send is None or pipe is None:
            raise ValueError("the extractor has no pipes")
        frames = [framed(content_type.encode(errors="replace"), data) for content_type, data in pages]
        send.write(b"".join([framed(struct.pack("<I", len(pages))), *frames]))
        send.flush()
        for _ in pages:
            if pipe.read(1) == FAULT:
                yield Fault(receive(pipe).decode(), receive(pipe).decode(errors="replace"))
            else:
                yield Text(receive(pipe), receive(pipe), receive(pipe).decode())

    def wait(self) -> int:
        """The exit status of a process that is gone."""
        return self._process.wait()

    def end(self) -> None:
        """Ends the process, which holds nothing that it could lose."""
        self._process.kill()
        self._process.communicate()


class Guard:
    """Extracts while a `with` lasts; a process is started for the first page."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """settings: what `page.serve` takes."""
        self.settings = settings
        self._extractor: _Extractor | None = None

    def __enter__(self) -> Guard:
        """Starts nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the process."""
        self._end()

    def extract(self, pages: Sequence[tuple[str, bytes]]) -> list[Text | Fault]:
        """(Content-Type, bytes) of pages → what came of each, in order.

        Raises ChildProcessError where the machine lets no extractor work.
        """
        results: list[Text | Fault] = []
        while len(results) < len(pages):
            last, size = len(results), 0
            while last < len(pages) and (size == 0 or size + len(pages[last][1]) <= CHUNK_BYTES):
                size += len(pages[last][1])
                last += 1
            results += self._chunk(pages[len(results) : last])
        return results

    def _chunk(self, pages: Sequence[tuple[str, bytes]]) -> list[Text | Fault]:
        """Results of the first pages: all, or up to the one at which the process ended."""
        if self._extractor is None:
            self._extractor = _Extractor(self.settings)
        results: list[Text | Fault] = []
        try:
            for result in self._extractor.answers(pages):
                results.append(result)  # noqa: PERF402 - those before the end of the process are kept
        except (EOFError, BrokenPipeError):
            self._end()
            results.append(self._alone(pages[len(results)]))
            return [*self._trusted(pages, results[:-1]), results[-1]]
        return self._trusted(pages, results)

    def _trusted(self, pages: Sequence[tuple[str, bytes]], results: Sequence[Text | Fault]) -> list[Text | Fault]:
        """The results, those in doubt tried again. An error may come of what the process did before, above all a lack
        of memory."""
        tried = zip(pages[: len(results)], results, strict=True)
        return [self._alone(page) if _doubtful(result) else result for page, result in tried]

    def _alone(self, page: tuple[str, bytes]) -> Text | Fault:
        """What comes of the page in a process of its own; a fault only where it ends every such process."""
        settings = {**self.settings, "timeout_seconds": PATIENCE * self.settings["timeout_seconds"]}
        status = 0
        for _ in range(ATTEMPTS):
            extractor = _Extractor(settings)
            try:
                result = next(extractor.answers([page]))
            except (EOFError, BrokenPipeError):
                status = extractor.wait()
            else:
                if _doubtful(result):
                    self._try_harmless(settings)
                return result
            finally:
                extractor.end()
            if status == -signal.SIGPROF:
                break
        if -status in FROM_OUTSIDE:
            raise ChildProcessError(f"the page extractor is killed again and again ({_manner(status)}): out of memory?")
        self._try_harmless(settings)
        if status == -signal.SIGPROF:
            detail = f"over {settings['timeout_seconds']:g} s of CPU time, alone; this depends on the machine"
            return Fault("page_timeout", detail)
        return Fault("page_crash", f"it ended {ATTEMPTS} fresh extractors, alone in each: {_manner(status)}")

    def _try_harmless(self, settings: dict[str, Any]) -> None:
        """Raises ChildProcessError where even a harmless page ends the process."""
        extractor = _Extractor(settings)
        try:
            result = next(extractor.answers([HARMLESS]))
        except (EOFError, BrokenPipeError):
            result = Fault("page_crash", _manner(extractor.wait()))
        finally:
            extractor.end()
        if isinstance(result, Fault):
            raise ChildProcessError(f"the page extractor fails even on a harmless page: {result.detail}")

    def _end(self) -> None:
        if self._extractor is not None:
            self._extractor.end()
        self._extractor = None


def _doubtful(result: Text | Fault) -> bool:
    return isinstance(result, Fault) and result.reason == "page_error"


def _manner(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit code {status}"
