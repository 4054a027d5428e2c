"""The byte-level alphabet, in which GPT-2 and its heirs spell tokens: a printable character for each byte.

Maps tokens to bytes; reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence


def byte_alphabet() -> dict[str, int]:
    """The byte-level alphabet: printable stand-in → byte (openai/gpt-2 src/encoder.py, bytes_to_unicode)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + k): b for k, b in enumerate(others)}


def token_bytes(tokens: Sequence[str]) -> list[bytes]:
    """The bytes that byte-level tokens stand for. Raises KeyError for a token not of the byte-level alphabet."""
    alphabet = byte_alphabet()
    return [bytes(alphabet[char] for char in token) for token in tokens]
