"""The searches as torch.export records them, against the searches themselves."""

from typing import Any

import pytest
import torch
from torch import nn

from sharedmlp.neighbors import (
    ball_query,
    farthest_points,
    interpolation_weights,
    k_nearest,
)
from tests.tolerances import assert_close


class Searches(nn.Module):
    """All of them, in 3 and in 9 channels; with balls that have no point in them."""

    def forward(self, points):
        wide = torch.cat([points, 2 * points, points.square()], -1)
        rows = farthest_points(points, 9, start=0)
        centers = points.gather(1, rows[..., None].expand(-1, -1, 3))
        return (
            rows,
            ball_query(points, torch.cat([centers, centers + 3], 1), 0.5, 4),
            k_nearest(points, 5),
            k_nearest(wide, 5),
            # of two centers, one of them twice, and of more than three
            *interpolation_weights(points, centers[:, :1] + torch.tensor([[0.0], [1.0]])),
            *interpolation_weights(points, centers),
        )


def clouds():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 33), (1, 1), (2, 3), (1, 70)):  # other sizes than those recorded, and few
        yield torch.randn(*shape, 3, generator=generator)
    # Many ties, and with row 0 again at the end, which is never sampled.
    yield torch.cartesian_prod(*[torch.arange(3.0)] * 3).repeat(2, 1)[None, :28] / 4


def check(network, *, with_ties):
    """Where ties may go to any row, of the k nearest in the larger random clouds alone."""
    for points in clouds():
        expected = Searches()(points)
        for number, (found, want) in enumerate(zip(network(points), expected, strict=True)):
            assert found.dtype == want.dtype
            if number < (3 if with_ties else 2) or points.shape[1] > 30:
                assert_close(found, want)


@pytest.fixture(scope="module")
def program():
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("points", min=1)}
    return torch.export.export(Searches(), (torch.zeros(2, 8, 3),), dynamic_shapes=(axes,))


def test_a_recorded_search_finds_the_same_rows(program):
    check(program.module(), with_ties=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_onnx_finds_the_same_rows_and_of_ties_the_lowest(program, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "searches.onnx"
    exported: Any = torch.onnx.export(program, verbose=False)
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    check(
        lambda points: [torch.from_numpy(y) for y in session.run(None, {name: points.numpy()})],
        with_ties=True,
    )


def test_what_cannot_be_exported_is_said():
    class Flat(nn.Module):
        def forward(self, points, batch):
            return k_nearest(points, 2, batch=batch)

    with pytest.raises(
        RuntimeError, match="k_nearest cannot be exported or transformed with batch: pass"
    ):
        torch.export.export(Flat(), (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)))
