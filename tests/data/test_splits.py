import numpy as np
import pytest

from sharedmlp.data import stratified_split

LABELS = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])


def test_every_class_has_its_share():
    train, val = stratified_split(LABELS, 0.2, seed=0)
    assert np.bincount(LABELS[val], minlength=4).tolist() == [20, 2, 1, 0]
    assert np.bincount(LABELS[train], minlength=4).tolist() == [80, 8, 1, 1]
    assert sorted([*train, *val]) == list(range(len(LABELS)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


def test_the_seed_decides_and_the_choice_is_random():
    first, again, other = (stratified_split(LABELS, 0.2, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first[:20].tolist() != list(range(20))


def test_the_extremes():
    train, val = stratified_split(LABELS, 0.0, seed=0)
    assert (len(train), len(val)) == (len(LABELS), 0)
    train, _ = stratified_split(LABELS, 0.99, seed=0)
    assert set(LABELS[train]) == {0, 1, 2, 3}


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_outside_is_an_error(fraction):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        stratified_split(LABELS, fraction, seed=0)


def test_labels_of_two_dimensions_are_an_error():
    with pytest.raises(ValueError, match=r"\(113, 1\)"):
        stratified_split(LABELS[:, None], 0.1, seed=0)
