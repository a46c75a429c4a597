"""Covering arrays in place of cross products."""

import pytest
from allpairspy import AllPairs


def pairwise(**parameters):
    """Parametrize a test such that every pair of values of two parameters occurs together.

    A fault that depends on one parameter, or on two of them, is met by some row; the number of rows
    grows with the product of the two longest lists, not with that of all.
    """
    names = list(parameters)
    rows = [tuple(row) for row in AllPairs([list(values) for values in parameters.values()])]
    return pytest.mark.parametrize(names, rows, ids=lambda value: str(value)[:40])
