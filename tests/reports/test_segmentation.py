import csv
import json
import re

import numpy as np
import pytest
import torch

from sharedmlp.reports.segmentation_report import report_segmentation
from sharedmlp.reports.worst_clouds import WorstClouds
from sharedmlp.viz import class_colors, read_picture

NAMES = ["floor", "wall", "chair"]
CONFUSION = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])


def worst_of(labels, predictions):
    worst = WorstClouds(3)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(*labels.shape, 4, generator=generator)
    worst.update(points, labels, predictions, torch.arange(len(labels)))
    return worst


def test_the_worst_clouds_are_kept_in_order_and_perfect_ones_never():
    labels = torch.zeros(30, 40, dtype=torch.int64)
    predictions = (torch.arange(40) < torch.arange(30)[:, None]).long()
    predictions[7, :39] = 1  # worse than all
    labels[29] = -1  # nothing to be wrong about
    worst = worst_of(labels, predictions)
    assert [cloud.position for cloud in worst.clouds] == [7, *range(28, 17, -1)]
    half = WorstClouds(3)
    half.merge(worst.clouds[6:])
    half.merge(worst.clouds[:8])
    assert [cloud.position for cloud in half.clouds] == [cloud.position for cloud in worst.clouds]
    assert worst_of(labels[:1], labels[:1]).clouds == []


def test_the_report_has_the_iou_by_class_as_table_and_files_and_draws_the_worst(tmp_path, capsys):
    labels = torch.tensor([[0, 0, 1, -1, 1]])
    worst = worst_of(labels, torch.tensor([[0, 1, 1, 2, 1]]))
    metrics = {"loss": 0.5, "mean_iou": 0.5357, "instance_mean_iou": float("nan")}
    written = report_segmentation(
        CONFUSION,
        worst.clouds,
        NAMES,
        metrics=metrics,
        category_iou={"room": 0.25},
        name_cloud=lambda index: f"cloud_{index}",
        up_axis="z",
        folder=tmp_path,
        ckpt_path="best.ckpt",
    )
    lines = capsys.readouterr().out.splitlines()
    assert "floor                       4    75.00%    50.00%  wall (1)" in lines
    assert next(line for line in lines if line.startswith("chair")).split() == ["chair", *"0--"]
    assert next(line for line in lines if line.startswith("mean IoU")).endswith("53.57%")
    saved = json.loads(written["test metrics"].read_text())
    assert saved["mean_iou"] == 0.5357
    assert saved["instance_mean_iou"] is None
    assert saved["class_iou"] == {"floor": 0.5, "wall": pytest.approx(4 / 7), "chair": None}
    assert saved["category_iou"] == {"room": 0.25}
    assert saved["confusion"] == CONFUSION.tolist()
    rows = list(csv.DictReader(written["test by class"].open()))
    assert [row["class"] for row in rows] == NAMES
    assert rows[0]["iou"] == "0.5"
    pixels = read_picture(written["worst clouds"])[..., :3].reshape(-1, 3)
    for color in class_colors(2):  # both true classes are seen in their colors
        assert (np.abs(pixels - (255 * color).round()).max(1) < 40).any()
    assert "cloud_0" in written["worst clouds, to turn"].read_text()
    assert written["confusion matrix"].stat().st_size > 0


def test_classes_have_the_colors_of_the_page():
    from importlib import resources

    script = resources.files("sharedmlp.viz").joinpath("template", "decode.js").read_text()
    palette = re.search(r"const PALETTE = \[(.*?)\];", script, re.DOTALL)
    assert palette
    numbers = np.array([int(n) for n in re.findall(r"\d+", palette[1])]).reshape(-1, 3)
    colors = 255 * class_colors(24)
    np.testing.assert_allclose(colors[:8], numbers)
    np.testing.assert_allclose(colors[8:16], numbers + 0.45 * (255 - numbers))
    np.testing.assert_allclose(colors[16:], numbers * 0.65)
