"""Symbols <-> token ids; knows no arithmetic."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp_arith.errors import RequestError


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of symbols; a symbol's id is its place.

    >>> Vocabulary(("0", "1", "+")).encode(["1", "+"])
    [1, 2]
    """

    symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.symbols)

    def id(self, symbol: str) -> int:
        """The token id of one symbol."""
        try:
            return self.symbols.index(symbol)
        except ValueError:
            raise RequestError(
                f"symbol {symbol!r} is not in the vocabulary; there are: {' '.join(self.symbols)}"
            ) from None

    def encode(self, symbols: Iterable[str]) -> list[int]:
        """Token ids of a sequence of symbols (a string is a sequence of characters)."""
        return [self.id(symbol) for symbol in symbols]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The symbols of token ids."""
        return [self.symbols[i] for i in ids]


def numbers(n: int, *extra: str) -> Vocabulary:
    """One token a number: 0 … n−1, then the extra symbols."""
    return Vocabulary((*map(str, range(n)), *extra))


def characters(*extra: str) -> Vocabulary:
    """One token a character: the ten digits, then the extra symbols."""
    return numbers(10, *extra)
