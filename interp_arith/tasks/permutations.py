"""Composition in the symmetric group S5 (Power et al. 2022), a task that is not commutative."""

import itertools
from typing import Literal

import numpy as np

from interp_arith.tasks.pairs import Integers, PairTask

_PERMUTATIONS = np.array(list(itertools.permutations(range(5))))
_PLACES = 5 ** np.arange(4, -1, -1)
_INDEX = {int(row @ _PLACES): i for i, row in enumerate(_PERMUTATIONS)}


def _compose(x: Integers, y: Integers) -> Integers:
    """(x·y)(i) = x(y(i)), on indices of permutations in lexicographic order."""
    composed = np.take_along_axis(_PERMUTATIONS[x], _PERMUTATIONS[y], axis=1) @ _PLACES
    return np.array([_INDEX[int(code)] for code in composed], dtype=np.int64)


def _invert(x: Integers) -> Integers:
    codes = np.argsort(_PERMUTATIONS[x], axis=1) @ _PLACES
    return np.array([_INDEX[int(code)] for code in codes], dtype=np.int64)


class PermutationComposition(PairTask):
    """Composition in the symmetric group S5 (Power et al. 2022): "12*34=" in indices of the 120 permutations.

    Permutations of 0 … 4 are numbered in lexicographic order, 0 the identity, and (x·y)(i) = x(y(i)).
    """

    kind: Literal["s5"] = "s5"
    operation: Literal["xy", "xyx^-1", "xyx"] = "xy"
    """The product, the conjugate, or the sandwich."""

    @property
    def n_elements(self) -> int:
        """120."""
        return len(_PERMUTATIONS)

    @property
    def sign(self) -> str:
        """The group's product."""
        return "*"

    def compute(self, a: Integers, b: Integers) -> Integers:
        """The index of the resulting permutation."""
        product = _compose(a, b)
        if self.operation == "xy":
            return product
        return _compose(product, _invert(a) if self.operation == "xyx^-1" else a)
