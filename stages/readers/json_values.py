"""Cuts a stream of bytes into JSON values: one after another or one a line, or the values of an array.

Reads chunks, gives (position, bytes) pairs and faults. Values are checked token by token, so that a fault shows near
the place where it is. A raw line end is illegal in a string (RFC 8259, section 7), so after a fault reading takes up
again at the next line that can begin a record; `resync` has the rules. The one trade-off: a Python step for each token
of a value whose end nothing cheaper tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

import orjson

from stages.readers.records import BOM, HEAD, SPACE, Bad
from stages.readers.resync import FIRST_KEY, Layout, layout_of
from stages.readers.streams import Ahead

DEEPEST = 1 << 16
"""Levels of nesting at which a value counts as broken."""

KEPT = 512
"""Bytes kept behind and looked at ahead, so that what spans two chunks is seen whole."""

STRING = rb'"[^"\\\r\n]*+(?:\\[^\r\n][^"\\\r\n]*+)*+"'
SCALAR = rb'[^ \t\r\n{}\[\],:"]++'
MEMBER = rb"[ \t\r\n]*+" + STRING + rb"[ \t\r\n]*+:[ \t\r\n]*+(?:" + STRING + rb"|" + SCALAR + rb")[ \t\r\n]*+"
FLAT = re.compile(rb"\{" + MEMBER + rb"(?:," + MEMBER + rb")*+\}")
"""An object of strings and scalars. Most records are one, and one match finds its end."""

TOKEN = re.compile(rb'[ \t\r\n]*+(?:([{}\[\],:"])|(' + SCALAR + rb"))")
BODY = re.compile(rb'[^"\\\r\n]*+(?:\\[^\r\n][^"\\\r\n]*+)*+')
"""What may stand in a string: all up to its end, or up to what is illegal there."""

BLANK = re.compile(rb"[ \t]*+")
BLANKS = re.compile(rb"[ \t\r\n]*+")

VALUE, KEY, COLON, COMMA = "a value", "a key", "a colon", "a comma or a bracket"
NEXT = {
    (VALUE, b'"'): COMMA,
    (VALUE, b""): COMMA,
    (VALUE, b"{"): KEY,
    (VALUE, b"["): VALUE,
    (KEY, b'"'): COLON,
    (COLON, b":"): VALUE,
}
"""(What is expected, token) → what is expected next; a scalar is the token b"". Brackets close wherever they match: the
value's extent is then plain, and its parser says what is wrong."""


class _FaultError(Exception):
    """A value that is no JSON: `at` is the offset in the window where that shows."""

    def __init__(self, at: int, detail: str, reason: str = "invalid_json") -> None:
        super().__init__(detail)
        self.at, self.detail, self.reason = at, detail, reason


class _Window(Ahead):
    """A stretch of the stream that moves forward: `data[at:]` lies ahead, `base` is the position of `data[0]`."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        super().__init__(chunks)
        self.base, self.data, self.at = 0, b"", 0

    def more(self, most: int) -> int:
        """Reads on: as much again as lies ahead, but at most up to `most`. Gives by how much offsets became smaller."""
        gone = max(0, self.at - KEPT)
        pieces, ahead = [self.data[gone:]], len(self.data) - self.at
        wanted = max(1, min(ahead, most - ahead))
        while wanted > 0 and not self.ended:
            pieces.append(self.next_chunk())
            wanted -= len(pieces[-1])
        self.base, self.at, self.data = self.base + gone, self.at - gone, b"".join(pieces)
        return gone

    def skip_blanks(self) -> bool:
        """Moves past white space; false at the end of the stream."""
        while True:
            self.at = BLANKS.match(self.data, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.data) or self.ended:
                return self.at < len(self.data)
            self.more(0)


class _Values:
    """The values of one stream; see `json_values`."""

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self.window, self.limit = _Window(chunks), limit
        self.array: bool | None = None
        self.open = False
        self.good, self.between, self.over = b"", b"", 0
        self.told = False

    def __iter__(self) -> Iterator[tuple[int, bytes] | Bad]:
        window = self.window
        while not window.ended and len(window.data) < len(BOM):
            window.more(len(BOM))
        window.at = len(BOM) if window.data.startswith(BOM) else 0
        while window.skip_blanks():
            if not self._punctuation(window.data[window.at : window.at + 1]):
                try:
                    yield self._value()
                except _FaultError as fault:
                    yield from self._faulty(fault)
        position = window.base + len(window.data)
        if window.broken and not self.told:
            yield Bad(position, window.broken.reason, window.broken.detail)
        elif self.open and not window.broken:
            yield Bad(position, "truncated_json", "the file ends inside an array")

    def _punctuation(self, byte: bytes) -> bool:
        """Whether that is an array's bracket or comma; if so, moves past it. A file that begins with an array is one of
        arrays; its values count wherever they stand, as a stray bracket may have closed the array before them."""
        window = self.window
        if self.array is None:
            self.array = byte == b"["
        if not self.array or byte not in ((b"]", b",") if self.open else (b"[", b",")):
            return False
        if byte != b",":
            self.open = not self.open
        window.at += 1
        return True

    def _follows(self, at: int, allowed: bytes) -> bool:
        """Whether blanks follow from `at` on, then one of these bytes or the stream's end; many blanks count so too."""
        window = self.window
        while (place := BLANK.match(window.data, at).end()) == len(window.data):  # type: ignore[union-attr]
            if window.ended or place - at > KEPT:
                return True
            at -= window.more(self.limit)
        return place - at > KEPT or window.data[place] in allowed

    def _value(self) -> tuple[int, bytes]:
        """The value ahead, and the window past it. Raises _FaultError."""
        window = self.window
        if self.array and window.data.startswith(b"[", window.at):  # no record, and it could hold all the others
            raise _FaultError(window.at, "an array in an array")
        size = (self._guess() or self._found()) - window.at
        if size > self.limit:
            raise self._too_large()
        if not self._follows(window.at + size, b",]{\r\n" if self.array else b"{[\r\n"):
            raise _FaultError(window.at + size, "unexpected content after a value")
        self.good = window.data[window.at : window.at + size]
        position, window.at = window.base + window.at, window.at + size
        self.over = position + size
        return position, self.good

    def _guess(self) -> int:
        """The offset after the value ahead if the next one follows it as this one followed the last, and a JSON parser
        says that what is between is a value; else 0."""
        window = self.window
        if not self.between:
            return 0
        end = window.data.find(self.between, window.at, window.at + 4 * len(self.good) + HEAD)
        try:
            orjson.loads(window.data[window.at : max(end, window.at)])
        except orjson.JSONDecodeError:
            return 0
        return end

    def _found(self) -> int:
        """The offset after the value ahead; learns how it followed the last one. Raises _FaultError."""
        window = self.window
        flat = FLAT.match(window.data, window.at)
        end = flat.end() if flat else self._walk()
        gap = window.data[max(0, self.over - window.base) : window.at]
        first = FIRST_KEY.match(window.data, window.at)
        self.between = b""
        if self.over > window.base and len(gap) < KEPT and first and not gap.strip(SPACE + b","):
            self.between = gap + (b"{" if b"\n" in gap else first[0])
        return end

    def _too_large(self) -> _FaultError:
        return _FaultError(self.window.at + self.limit, f"over {self.limit:,} bytes", "record_too_large")

    def _walk(self) -> int:
        """The offset after the value ahead, found token by token. Raises _FaultError."""
        window, at, wanted, open_ = self.window, self.window.at, VALUE, bytearray()
        while True:
            token = TOKEN.match(window.data, at)
            if token is None or (token[1] is None and token.end() == len(window.data)):
                if not window.ended:
                    at = self._more(at)
                    continue
                if token is None:
                    raise self._cut_short()
            at, mark = token.end(), token[1] or b""
            if mark in (b"]", b"}") and open_ and open_[-1] == ord(mark) - 2:  # "[" and "]", "{" and "}" are two apart
                open_.pop()
                wanted = COMMA
            elif mark == b"," and wanted == COMMA and open_:
                wanted = VALUE if open_[-1] == ord("[") else KEY
            elif (wanted, mark) in NEXT and len(open_) < DEEPEST:
                wanted = NEXT[wanted, mark]
                if mark == b'"':
                    at = self._string(at)
                elif mark in (b"{", b"["):
                    open_ += mark
            else:
                raise _FaultError(token.start(1 if mark else 2), f"{wanted} expected")
            if not open_:
                return at

    def _string(self, at: int) -> int:
        """The offset after the string whose first quotation mark is before `at`. Raises _FaultError."""
        window = self.window
        while True:
            at = BODY.match(window.data, at).end()  # type: ignore[union-attr]
            byte = window.data[at : at + 1]
            if byte == b'"':
                return at + 1
            if byte and not (byte == b"\\" and at + 1 == len(window.data)):
                raise _FaultError(at + (byte == b"\\"), "a line end in a string")
            if window.ended:
                raise self._cut_short()
            at = self._more(at)

    def _more(self, at: int) -> int:
        """Reads on; gives the same place as an offset. Raises _FaultError where the limit is passed."""
        if len(self.window.data) - self.window.at > self.limit:
            raise self._too_large()
        return at - self.window.more(self.limit + 1)

    def _cut_short(self) -> _FaultError:
        return _FaultError(len(self.window.data), "the file ends inside a value", "truncated_json")

    def _faulty(self, fault: _FaultError) -> Iterator[tuple[int, bytes] | Bad]:
        """The value ahead as a fault, and those that it took in before the fault showed; the window where to go on."""
        window = self.window
        if fault.at - window.at > self.limit:
            fault = self._too_large()
        while len(window.data) - fault.at < KEPT and not window.ended:
            fault.at -= window.more(self.limit + 2 * KEPT)
        layout = layout_of(window.data, window.at, whole=window.base == 0, array=bool(self.array), good=self.good)
        cuts = layout.taken_in(window.data, window.at, fault.at)
        if not cuts:
            yield self._pass_over(fault, layout)
            return
        end, cuts_short = cuts[0], fault.reason == "truncated_json"
        reason, size = "invalid_json" if cuts_short else fault.reason, end - window.at
        several = layout.several(window.data, window.at, end)
        head = window.data[window.at : min(end, window.at + HEAD)]
        yield self._bad(reason, fault.detail, window.base + window.at, head, size if several else 0, size)
        for start, end in pairwise(cuts):
            piece = window.data[start:end].strip(SPACE)
            yield window.base + start, piece.removesuffix(b",").rstrip(SPACE) if self.array else piece
        window.at = cuts[-1]

    def _pass_over(self, fault: _FaultError, layout: Layout) -> Bad:
        """The value ahead as a fault that goes on to where a record can begin, and the window there."""
        window, size, head, several, lines = self.window, 0, b"", False, False
        position, place = window.base + window.at, fault.at
        while True:
            found = layout.after(window.data, window.at, place)
            end = found if found is not None else len(window.data)
            several = several or layout.several(window.data, window.at, end)
            lines = lines or layout.lines(window.data, window.at, end)
            if found is None and not window.ended:
                end = max(window.at, end - KEPT)
            head += window.data[window.at : min(end, window.at + HEAD - len(head))]
            size += end - window.at
            window.at = end
            if found is not None or window.ended:
                break
            place -= window.more(0)
        reason, detail = fault.reason, fault.detail
        if found is None:
            self.open, several = False, lines
            if window.broken and reason == "truncated_json":
                self.told, reason, detail = True, window.broken.reason, window.broken.detail
        elif layout.pretty or layout.opening:
            several = several or size > layout.usual
        return self._bad(reason, detail, position, head, size if several else 0, size)

    def _bad(self, reason: str, detail: str, position: int, head: bytes, lost: int, size: int) -> Bad:
        if reason == "record_too_large":
            return Bad(position, reason, f"{size:,} bytes, the limit is {self.limit:,}", head, size)
        return Bad(position, reason, detail, head, lost)


def json_values(chunks: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes] | Bad]:
    """The values of a JSON stream with their positions, each at most `limit` bytes: of its arrays, or of the top level.

    Values may stand one a line, one after another, or spread over lines. A fault costs its own record where the lines
    tell where the next one begins; else `Bad.lost` has the bytes passed over. An array that is never closed is a fault.
    """
    return iter(_Values(chunks, limit))
