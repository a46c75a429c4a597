import csv
import json

import torch

from sharedmlp.train.report import format_table, write_predictions, write_test_metrics

CONFUSION = torch.tensor([[8, 2, 0], [3, 1, 0], [0, 0, 0]])
NAMES = ["a", "a longer name than most of them", "c"]


def test_table_names_every_class_and_both_accuracies():
    lines = [line.split() for line in format_table(CONFUSION, NAMES).splitlines()]
    assert ["a", "10", "80.00%"] in lines
    assert ["c", "0", "-"] in lines
    assert ["mean", "class", "accuracy", "14", "52.50%"] in lines
    assert ["overall", "accuracy", "14", "64.29%"] in lines
    assert len({len(line) for line in format_table(CONFUSION, NAMES).splitlines()}) == 1


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


def test_predictions_are_csv(tmp_path):
    batches = [
        {
            "index": torch.tensor([2, 0]),
            "label": torch.tensor([0, 1]),
            "prediction": torch.tensor([1, 1]),
            "probabilities": torch.tensor([[0.25, 0.75], [0.125, 0.875]]),
        },
        {
            "index": torch.tensor([1]),
            "label": torch.tensor([0]),
            "prediction": torch.tensor([0]),
            "probabilities": torch.tensor([[1.0, 0.0]]),
        },
    ]
    path = tmp_path / "predictions.csv"
    write_predictions(path, batches, ["x, 0", "x1", "x2"], ["box", "ball"])
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["cloud", "label", "prediction", "p(box)", "p(ball)"],
        ["x2", "box", "ball", "0.250000", "0.750000"],
        ["x, 0", "ball", "ball", "0.125000", "0.875000"],
        ["x1", "box", "box", "1.000000", "0.000000"],
    ]
