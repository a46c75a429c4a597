import math

import pytest

from sharedmlp.utils.ranges import check_range


def test_the_ends_belong_to_the_range():
    check_range(0, 1, low=0, high=1.0)
    check_range(0, large=1e9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": 1, "b": -1}, "b is at least 0, got -1"),
        ({"a": math.nan}, "a is at least 0, got nan"),
    ],
)
def test_what_is_outside_is_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_range(0, **values)


def test_both_ends_are_named():
    with pytest.raises(ValueError, match=r"^share is from 0 to 1, got 1\.5$"):
        check_range(0, 1, share=1.5)
