import pytest

from sharedmlp.utils.suggest import did_you_mean


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fti", "; did you mean --fit?"),
        ("Predcit", "; did you mean --predict?"),
        ("max-epoch", "; did you mean --max_epochs?"),
        ("zebra", ""),
    ],
)
def test_the_most_similar_name_is_suggested(name, expected):
    assert did_you_mean(name, ["fit", "predict", "max_epochs"], "--") == expected


def test_without_candidates_there_is_no_suggestion():
    assert did_you_mean("fit", []) == ""
