"""Which network answers, and what is said of clouds that look unlike its own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sharedmlp.models import PointNet, create_model
from sharedmlp.models.saved import network_name
from sharedmlp.reports.likeness import (
    AnswerCheck,
    compare_up_axes,
    describe_network,
)

METADATA = {
    "class_names": ["a", "b", "c"],
    "num_points": 1024,
    "up_axis": "z",
    "trained_on": {"data": "shapes", "clouds": 7200},
    "validation": {"clouds": 1234, "accuracy": 0.912, "confidence": 0.9},
}


def test_two_lines_say_which_network_it_is():
    assert describe_network("pointnet", "best.ckpt", METADATA) == [
        "pointnet of best.ckpt, trained on 7,200 clouds of shapes (1,024 points, z up)",
        "  3 classes: a, b, c; 91.2% of 1,234 validation clouds right",
    ]
    many = {**METADATA, "class_names": list("abcdefghijklmnop"), "features": ["normals"]}
    first, second = describe_network("pointnet", "best.ckpt", many)
    assert first.endswith("(1,024 points, with normals, z up)")
    assert second.startswith("  16 classes; 91.2%")


def test_what_is_not_known_is_left_out():
    assert describe_network("pointnet", "a.safetensors", {"class_names": ["a", "b"]}) == [
        "pointnet of a.safetensors, trained on clouds (up axis unknown)",
        "  2 classes: a, b",
    ]


def test_a_network_has_the_name_that_makes_it():
    assert network_name(PointNet(3)) == "pointnet"
    assert network_name(create_model("pointnet_vanilla", 3)) == "pointnet_vanilla"

    class Own(nn.Module):
        pass

    assert network_name(Own()).endswith(".Own")  # type: ignore[arg-type]


FILES = [Path("a.off"), Path("b.npy"), Path("c.glb")]


@pytest.mark.parametrize(
    ("network", "given", "expected"),
    [
        (
            "z",
            None,
            [
                "2 of 3 files do not say which axis is up: z is taken, as in training; add "
                "--up_axis y if it is y, as in most downloaded meshes",
                "1 of 3 files have y up by their format: turned to z up",
            ],
        ),
        (
            "y",
            None,
            [
                "2 of 3 files do not say which axis is up: y is taken, as in training; add "
                "--up_axis z if it is z, as in scans"
            ],
        ),
        ("z", "y", []),
        ("y", "z", ["1 of 3 files have y up by their format, whatever --up_axis z says"]),
    ],
)
def test_up_axes_are_told_once_for_all_files(network, given, expected):
    assert compare_up_axes(FILES, {"up_axis": network}, given) == expected


def test_a_network_that_does_not_know_its_up_axis():
    (line,) = compare_up_axes(FILES, {}, None)
    assert "does not know which axis was up" in line


def check(confidences, num_points=1024, metadata=METADATA, rotations=1):
    found = AnswerCheck(metadata, rotations=rotations)
    for confidence in confidences:
        rest = (1 - confidence) / 2
        found.add(torch.tensor([rest, confidence, rest]), num_points)
    return found.warnings()


def test_a_low_mean_confidence_is_told():
    (line,) = check([0.5] * 30)
    assert line.startswith("mean confidence 50%, on validation clouds 90%: these look unlike")
    assert line.endswith("try --up_axis or --rotations 12")
    assert check([0.5] * 30, rotations=12)[0].endswith("try --up_axis")
    assert check([0.4, 0.96] * 60)


def test_a_confidence_that_validation_clouds_may_have_is_not():
    assert check([0.85] * 1000) == []
    assert check([0.5]) == []  # one cloud may be a hard one
    assert check([0.7] * 4) == []
    assert check([]) == []
    assert check([0.5] * 30, metadata={"num_points": 1024}) == []


def test_few_points_are_counted_and_the_smallest_cloud_is_named():
    found = AnswerCheck(METADATA)
    for number in (1024, 512, 511, 40):
        found.add(torch.tensor([0.9, 0.1, 0.0]), number)
    assert found.warnings() == [
        "2 of 4 clouds have less than half of the network's 1,024 points (the smallest 40): it is "
        "less accurate on them"
    ]
    assert check([0.9], num_points=3, metadata={}) == []
