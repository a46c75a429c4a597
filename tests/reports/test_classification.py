import csv
import json

import torch

from sharedmlp.reports.classification import (
    format_table,
    write_test_metrics,
    write_test_table,
)

CONFUSION = torch.tensor([[8, 2, 0], [3, 1, 0], [0, 0, 0]])
NAMES = ["a", "a longer name than most of them", "c"]


def test_table_names_every_class_and_both_accuracies():
    table = format_table(CONFUSION, NAMES)
    lines = [line.split() for line in table.splitlines()]
    longer = NAMES[1]
    assert ["a", "10", "80.00%", *longer.split(), "(2)"] in lines
    assert [*longer.split(), "4", "25.00%", "a", "(3)"] in lines
    assert ["c", "0", "-"] in lines
    assert ["mean", "class", "accuracy", "14", "52.50%"] in lines
    assert ["overall", "accuracy", "14", "64.29%"] in lines
    rows = [line for line in table.splitlines() if "%" in line]
    assert len({line.index("%") for line in rows}) == 1
    assert not any(line.endswith(" ") for line in table.splitlines())
    assert max(map(len, table.splitlines())) == len(table.splitlines()[1])


def test_of_classes_confused_equally_often_the_first_is_named_and_right_ones_never():
    confusion = torch.tensor([[5, 0, 0], [1, 9, 1], [0, 0, 7]])
    lines = [line.split() for line in format_table(confusion, ["a", "b", "c"]).splitlines()]
    assert ["b", "11", "81.82%", "a", "(1)"] in lines
    assert ["c", "7", "100.00%"] in lines


def test_the_table_is_csv_too(tmp_path):
    path = tmp_path / "new" / "classes.csv"
    write_test_table(path, CONFUSION, NAMES)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["class", "clouds", "accuracy", "most_confused_with", "confused_clouds"]
    assert list(rows[0]) == names
    assert [list(row.values())[:2] for row in rows] == [
        ["a", "10"],
        [NAMES[1], "4"],
        ["c", "0"],
        ["mean class accuracy", "14"],
        ["overall accuracy", "14"],
    ]
    assert [row["most_confused_with"] for row in rows] == [NAMES[1], "a", "", "", ""]
    assert [row["confused_clouds"] for row in rows] == ["2", "3", "0", "0", "0"]
    accuracies = [float(row["accuracy"] or "nan") for row in rows]
    expected = [0.8, 0.25, float("nan"), 0.525, 9 / 14]
    torch.testing.assert_close(
        torch.tensor(accuracies), torch.tensor(expected), equal_nan=True, rtol=0, atol=1e-6
    )
    assert [p.name for p in path.parent.iterdir()] == ["classes.csv"]


def test_test_metrics_are_json(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_test_metrics(path, CONFUSION, NAMES, "a.ckpt")
    report = json.loads(path.read_text())
    assert report["checkpoint"] == "a.ckpt"
    assert round(report["overall_accuracy"], 4) == 0.6429
    assert round(report["mean_class_accuracy"], 4) == 0.525
    assert report["class_accuracy"]["c"] is None
    assert report["confusion"] == CONFUSION.tolist()
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
