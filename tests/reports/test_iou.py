"""Intersections over unions against formulas written as loops."""

import math

import pytest
import torch

from sharedmlp.reports.iou import class_iou, cloud_iou, mean_iou, predict_points, shape_iou

PARTS = [[0, 1], [2, 3, 4], [5]]


def plain_iou(predictions, labels, part):
    """Of one class among points, the ignored left out; None if neither true nor predicted."""
    pairs = [(p, t) for p, t in zip(predictions, labels, strict=True) if t != -1]
    both = sum(p == part and t == part for p, t in pairs)
    either = sum(p == part or t == part for p, t in pairs)
    return both / either if either else None


def plain_shape_iou(predictions, labels, parts):
    """Return the mean over the parts of a category; an absent part counts 1."""
    if all(label == -1 for label in labels):
        return None
    values = [plain_iou(predictions, labels, part) for part in parts]
    return sum(1.0 if value is None else value for value in values) / len(parts)


def make_shapes(count, num_points=9, seed=0):
    """Predictions of any class, labels of the category's parts or ignored, categories."""
    generator = torch.Generator().manual_seed(seed)
    categories = torch.randint(3, (count,), generator=generator)
    labels = torch.stack(
        [
            torch.tensor(PARTS[category])[
                torch.randint(len(PARTS[category]), (num_points,), generator=generator)
            ]
            for category in categories.tolist()
        ]
    )
    predictions = torch.randint(6, labels.shape, generator=generator)
    right = torch.rand(labels.shape, generator=generator) < 0.5
    predictions = torch.where(right, labels, predictions)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = -1
    labels[0] = -1  # nothing of this one counts
    return predictions, labels, categories


def test_iou_of_clouds_and_shapes_is_that_of_the_plain_formulas():
    predictions, labels, categories = make_shapes(40)
    of_clouds = cloud_iou(predictions, labels, 6)
    of_shapes = shape_iou(predictions, labels, categories, PARTS)
    for row, (p, t) in enumerate(zip(predictions.tolist(), labels.tolist(), strict=True)):
        for part in range(6):
            expected = plain_iou(p, t, part)
            assert float(of_clouds[row, part]) == pytest.approx(
                math.nan if expected is None else expected, nan_ok=True
            )
        expected = plain_shape_iou(p, t, PARTS[int(categories[row])])
        assert float(of_shapes[row]) == pytest.approx(
            math.nan if expected is None else expected, nan_ok=True
        )
    assert of_shapes.isnan().sum() == 1


def test_a_part_that_is_absent_from_shape_and_prediction_counts_as_right():
    labels = torch.tensor([[2, 2, 2, 3]])
    # Part 4 is absent; half of the points of part 3 or predicted so are right.
    value = shape_iou(torch.tensor([[2, 2, 3, 3]]), labels, torch.tensor([1]), PARTS)
    assert float(value) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_iou_of_classes_comes_from_the_confusion_matrix():
    confusion = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    iou = class_iou(confusion)
    assert iou[:2].tolist() == pytest.approx([3 / 6, 4 / 7])
    assert iou[2].isnan()
    assert float(mean_iou(confusion)) == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_only_parts_of_the_category_are_predicted():
    logits = torch.tensor([[[9.0, 1, 2, 3, 0, 8], [0, 5, -7, -9, -8, 0]]])
    assert predict_points(logits).tolist() == [[0, 1]]
    assert predict_points(logits, torch.tensor([1]), PARTS).tolist() == [[3, 2]]
    assert predict_points(logits, torch.tensor([2]), PARTS).tolist() == [[5, 5]]
