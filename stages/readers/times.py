"""Writes Arrow's dates, times and durations as ISO 8601 texts: an array in, a list of strings out.

Computed from the stored integers, since Python's `datetime` has neither nanoseconds nor years beyond 9999. A year of
more than four digits has its sign, as ISO 8601 expanded has. The one trade-off: the offsets of a named time zone are
those of this machine's database, and UTC stands where that does not know the zone or the year.
"""

from __future__ import annotations

import datetime
import re
import zoneinfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DAY = 86_400
DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""Digits after the point, by unit."""

KNOWN = range(-62_135_500_000, 253_402_200_000)
"""Seconds since 1970 that `datetime` has in every time zone: years 1 to 9999, nearly."""

Integers = NDArray[np.int64]


def texts(array: pa.Array) -> list[str]:
    """The texts of an array of dates, times, timestamps, durations or intervals; any text where it is null.

    Raises pa.ArrowNotImplementedError for other types.
    """
    kind = array.type
    if pa.types.is_timestamp(kind):
        return _timestamps(_stored(array), DIGITS[kind.unit], kind.tz)
    if pa.types.is_date32(kind):
        return _dates(_stored(array))
    if pa.types.is_date64(kind):
        values = _stored(array)
        return _timestamps(values, 3, None) if (values % (DAY * 1000)).any() else _dates(values // (DAY * 1000))
    if pa.types.is_time(kind):
        digits = DIGITS[kind.unit]
        values = _stored(array).tolist()
        return ["-" * (v < 0) + _clock(abs(v) // 10**digits, abs(v) % 10**digits, digits) for v in values]
    if pa.types.is_duration(kind):
        return [_seconds(value, DIGITS[kind.unit]) for value in _stored(array).tolist()]
    if pa.types.is_interval(kind):
        return ["" if v is None else f"P{v[0]}M{v[1]}DT{_seconds(v[2], 9)[2:]}" for v in array.to_pylist()]
    raise pa.ArrowNotImplementedError(f"values of {kind} have no JSON form")


def widest(nanoseconds: pa.Array, microseconds: pa.Array) -> pa.Array:
    """The same timestamps read in two units: the first, but as texts where some of it has passed 64 bits."""
    fine, coarse = _stored(nanoseconds), _stored(microseconds)
    far = fine // 1000 != coarse
    if not far.any():
        return nanoseconds
    found = [texts(part) for part in (nanoseconds, microseconds)]
    chosen = [found[wrong][k] for k, wrong in enumerate(far.tolist())]
    return pa.array(chosen, pa.string(), mask=nanoseconds.is_null().to_numpy(zero_copy_only=False))


def _stored(array: pa.Array) -> Integers:
    """The integers behind an array, 0 where it is null."""
    wide = pa.int32() if array.type.bit_width == 32 else pa.int64()
    found: Integers = array.view(wide).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _timestamps(values: Integers, digits: int, zone: str | None) -> list[str]:
    seconds, fraction = np.divmod(values, 10**digits)
    offsets = np.zeros(len(values), np.int64) if zone is None else _offsets(seconds, zone)
    days, within = np.divmod(seconds, DAY)
    more, within = np.divmod(within + offsets, DAY)  # added here, where no sum can pass 64 bits
    marks = [""] * len(values) if zone is None else list(map(_offset, offsets.tolist()))
    parts = zip(_dates(days + more), within.tolist(), fraction.tolist(), marks, strict=True)
    return [f"{date}T{_clock(second, part, digits)}{mark}" for date, second, part, mark in parts]


def _dates(days: Integers) -> list[str]:
    """Days since 1970 → dates of the Gregorian calendar, also before it began."""
    months = days.astype("M8[D]").astype("M8[M]")
    years, month = np.divmod(months.astype(np.int64), 12)
    day = days - months.astype("M8[D]").astype(np.int64) + 1
    parts = zip((years + 1970).tolist(), (month + 1).tolist(), day.tolist(), strict=True)
    return [f"{'+' if y > 9999 else '-' if y < 0 else ''}{abs(y):04}-{m:02}-{d:02}" for y, m, d in parts]


def _clock(seconds: int, fraction: int, digits: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_fraction(fraction, digits)}"


def _seconds(value: int, digits: int) -> str:
    """A duration: PT1.500S."""
    whole, fraction = divmod(abs(value), 10**digits)
    return f"PT{'-' if value < 0 else ''}{whole}{_fraction(fraction, digits)}S"


def _fraction(value: int, digits: int) -> str:
    return f".{value:0{digits}}" if value else ""


def _offset(seconds: int) -> str:
    whole = f"{'-' if seconds < 0 else '+'}{abs(seconds) // 3600:02}:{abs(seconds) // 60 % 60:02}"
    return f"{whole}:{abs(seconds) % 60:02}" if seconds % 60 else whole


def _offsets(seconds: Integers, name: str) -> Integers:
    """How far a zone's clocks are ahead of UTC, in seconds, at times in seconds since 1970."""
    if fixed := re.fullmatch(r"([+-])(\d\d):?([0-5]\d)", name):
        ahead = int(fixed[2]) * 3600 + int(fixed[3]) * 60
        return np.full(len(seconds), -ahead if fixed[1] == "-" else ahead, np.int64)
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return np.zeros(len(seconds), np.int64)
    times, which = np.unique(seconds, return_inverse=True)
    return np.array([_ahead(zone, second) for second in times.tolist()], np.int64)[which]


def _ahead(zone: zoneinfo.ZoneInfo, second: int) -> int:
    if second not in KNOWN:
        return 0
    ahead = datetime.datetime.fromtimestamp(second, zone).utcoffset()
    return 0 if ahead is None else int(ahead.total_seconds())
