"""Neighbors against every distance computed in float64, one pair and one channel after another."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharedmlp.neighbors import ball_query, farthest_points, interpolation_weights, k_nearest
from sharedmlp.ops.neighbors import distances, farthest, leaves, nearest
from tests.covering import pairwise

KINDS = ("random", "lattice", "equal", "repeated", "far", "half_at_origin")


def make_cloud(kind, n, channels, seed=0):
    rng = np.random.default_rng([seed, n, channels])
    x: Any = rng.standard_normal((n, channels)).astype(np.float32)
    if kind == "lattice":
        x = x.round()
    elif kind == "equal":
        x[:] = x[:1]
    elif kind == "repeated":
        x[n // 2 :] = x[: n - n // 2]
    elif kind == "far":
        x = x / 1000 + 1000
    elif kind == "half_at_origin":
        x[::2] = 0
    return x


def all_distances(points, queries):
    """`(Q, N)` float64 by the plain formula, summed in the documented order."""
    difference = queries.astype(np.float64)[:, None] - points.astype(np.float64)[None]
    terms = list(np.moveaxis(difference**2, -1, 0))
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [terms[i] + terms[half + i] for i in range(half)] + terms[2 * half :]
    return terms[0]


def plain_nearest(points, queries, k):
    order = np.argsort(all_distances(points, queries), axis=1, kind="stable")[:, :k]
    return np.concatenate([order, np.repeat(order[:, :1], k - order.shape[1], 1)], 1)


def plain_ball(points, centers, radius, k):
    result = []
    for row in all_distances(points, centers):
        inside = [i for i in range(len(row)) if row[i] < radius * radius][:k]
        inside = inside or [int(np.argmin(row))]
        result.append(inside + [inside[0]] * (k - len(inside)))
    return np.array(result)


def plain_farthest(points, num_samples, start):
    result, remaining = [start], np.full(len(points), np.inf)
    while len(result) < num_samples:
        remaining = np.minimum(remaining, all_distances(points, points[result[-1:]])[0])
        result.append(int(remaining.argmax()) if remaining.max() > 0 else start)
    return np.array(result)


@pytest.fixture(params=["pairs", "tiles", "leaves"])
def way(request, monkeypatch):
    """All pairs at once, one query at a time, or leaves of a few points."""
    if request.param == "tiles":
        monkeypatch.setitem(distances._TILE, "cpu", 40)
    if request.param == "leaves":
        monkeypatch.setattr(leaves, "_MIN_PAIRS", 1)
        monkeypatch.setattr(leaves, "MAX_DIMENSIONS", 1000)
        monkeypatch.setattr(leaves, "_LEAF_SIZE", 5)
        monkeypatch.setattr(farthest, "_MIN_POINTS", 1)
        monkeypatch.setattr(farthest, "MAX_DIMENSIONS", 1000)
    return request.param


SIZES, CHANNELS, COUNTS = (1, 2, 9, 70), (1, 2, 3, 7, 64), (1, 3, 20, 70)
cases = pairwise(kind=KINDS, n=SIZES, channels=CHANNELS, k=COUNTS)


@cases
def test_k_nearest(way, kind, n, channels, k):
    points = make_cloud(kind, n, channels)
    queries = np.concatenate([make_cloud("random", 5, channels, 1) * 3, points[:9]])
    np.testing.assert_array_equal(k_nearest(points, k), plain_nearest(points, points, k))
    np.testing.assert_array_equal(k_nearest(points, k, queries), plain_nearest(points, queries, k))


@pairwise(kind=KINDS, n=SIZES, channels=CHANNELS, k=COUNTS, radius=(1e-3, 1.0, 2.5))
def test_ball_query(way, kind, n, channels, k, radius):
    points = make_cloud(kind, n, channels)
    centers = np.concatenate([make_cloud("random", 5, channels, 1) * 3, points[:9]])
    found = ball_query(points, centers, radius, k)
    np.testing.assert_array_equal(found, plain_ball(points, centers, radius, k))


@cases
def test_farthest_points(way, kind, n, channels, k):
    points = make_cloud(kind, n, channels)
    start = n // 2
    found = farthest_points(points, k, start=start)
    np.testing.assert_array_equal(found, plain_farthest(points, k, start))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=30),
    st.integers(1, 8),
    st.sampled_from([1.0, 2.0, 3.0]),
)
def test_ties_go_to_the_lowest_row(rows, k, radius):
    """On integers, where ties are the rule and a radius is a distance that occurs."""
    points = np.array(rows, dtype=np.float32)
    np.testing.assert_array_equal(k_nearest(points, k), plain_nearest(points, points, k))
    found = ball_query(points, points, radius, k)
    np.testing.assert_array_equal(found, plain_ball(points, points, radius, k))
    np.testing.assert_array_equal(farthest_points(points, k), plain_farthest(points, k, 0))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1e-30, 1e-3, 1.0, 1e12]))
def test_distances_that_differ_by_rounding(seed, k, scale):
    """Points around a query on a sphere: the order is in the last bits of float64."""
    x = np.random.default_rng(seed).standard_normal((60, 3))
    points = (x / np.linalg.norm(x, axis=1, keepdims=True) * scale).astype(np.float64)
    queries = np.zeros((1, 3))
    np.testing.assert_array_equal(k_nearest(points, k, queries), plain_nearest(points, queries, k))
    found = ball_query(points, queries, scale, k)
    np.testing.assert_array_equal(found, plain_ball(points, queries, scale, k))


def test_the_radius_is_outside():
    points = np.array([[0.0], [1.0], [2.0]])
    np.testing.assert_array_equal(ball_query(points, points[:1], 1.0, 2), [[0, 0]])
    np.testing.assert_array_equal(ball_query(points, points[:1], 1.0001, 2), [[0, 1]])


def test_an_empty_ball_gets_the_nearest_point_again():
    points = np.array([[5.0], [3.0], [3.0]])
    np.testing.assert_array_equal(ball_query(points, np.array([[0.0]]), 1.0, 2), [[1, 1]])


def test_the_first_sample_comes_again_if_none_is_left():
    points = np.array([[0.0], [1.0], [0.0]])
    np.testing.assert_array_equal(farthest_points(points, 5, start=1), [1, 0, 1, 1, 1])


def test_dense_clouds_are_searched_each_on_its_own(way):
    clouds = np.stack([make_cloud(kind, 20, 3) for kind in KINDS])
    queries = clouds[:, 5:12] + np.float32(0.1)
    tensors = torch.from_numpy(clouds), torch.from_numpy(queries)
    found = k_nearest(tensors[0], 4, tensors[1])
    assert found.dtype == torch.int64
    for i, (points, others) in enumerate(zip(clouds, queries, strict=True)):
        np.testing.assert_array_equal(found[i], plain_nearest(points, others, 4))
        ball = ball_query(*tensors, 1.0, 4)[i]
        np.testing.assert_array_equal(ball, plain_ball(points, others, 1.0, 4))
        samples = farthest_points(tensors[0], 9, start=3)[i]
        np.testing.assert_array_equal(samples, plain_farthest(points, 9, 3))


def flat_clouds():
    """Clouds 0, 1 and 4 of different sizes, their rows mixed; queries of 4 and 0 alone."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 3)).astype(np.float32)
    batch = rng.permutation(np.repeat([0, 1, 4], [3, 16, 41]))
    return points, batch, points[batch != 1] + 1, batch[batch != 1]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_rows_with_a_batch_vector(way, kind):
    points, batch, queries, queries_batch = flat_clouds()
    arguments = points, batch, queries, queries_batch
    x, b, q, qb = arguments if kind == "numpy" else map(torch.from_numpy, arguments)
    near = np.asarray(k_nearest(x, 5, q, batch=b, queries_batch=qb))
    own = np.asarray(k_nearest(x, 5, batch=b))
    ball = np.asarray(ball_query(x, q, 1.5, 5, batch=b, centers_batch=qb))
    centers, weights = map(np.asarray, interpolation_weights(q, x, batch=qb, centers_batch=b))
    for cloud in (0, 1, 4):
        rows, others = np.flatnonzero(batch == cloud), np.flatnonzero(queries_batch == cloud)
        p, o = points[rows], queries[others]
        np.testing.assert_array_equal(own[rows], rows[plain_nearest(p, p, 5)])
        np.testing.assert_array_equal(near[others], rows[plain_nearest(p, o, 5)])
        if cloud != 1:
            np.testing.assert_array_equal(ball[others], rows[plain_ball(p, o, 1.5, 5)])
            alone = interpolation_weights(o, p)
            np.testing.assert_array_equal(centers[others], rows[alone[0]])
            np.testing.assert_array_equal(weights[others], alone[1])
    samples = np.asarray(farthest_points(x, 7, start=2, batch=b)).reshape(3, 7)
    for cloud, found in zip((0, 1, 4), samples, strict=True):
        rows = np.flatnonzero(batch == cloud)
        np.testing.assert_array_equal(found, rows[plain_farthest(points[rows], 7, 2)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_interpolation_weights(dtype):
    points, centers = torch.randn(2, 30, 3, dtype=dtype), torch.randn(2, 9, 3, dtype=dtype)
    centers[:, 0] = points[:, 0]  # distance zero: nearly all of the weight
    rows, weights = interpolation_weights(points, centers)
    assert torch.equal(rows, k_nearest(centers, 3, points))
    near = torch.stack([c[r] for c, r in zip(centers.double(), rows, strict=True)])
    expected = 1 / ((near - points.double()[:, :, None]).square().sum(-1) + 1e-8)
    expected = expected / expected.sum(-1, keepdim=True)
    assert weights.dtype == dtype
    torch.testing.assert_close(weights, expected.to(dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize("num_centers", [1, 2])
def test_no_center_counts_twice(num_centers):
    points, centers = np.random.default_rng(0).random((6, 3)), np.eye(3)[:num_centers]
    rows, weights = interpolation_weights(points, centers, 4)
    few = interpolation_weights(points, centers, num_centers)
    again = np.repeat(few[0][:, :1], 4 - num_centers, 1)
    np.testing.assert_array_equal(rows, np.concatenate([few[0], again], 1))
    np.testing.assert_array_equal(weights, np.pad(few[1], ((0, 0), (0, 4 - num_centers))))


def test_a_seed_draws_the_first_sample():
    points = torch.randn(40, 30, 3)
    found = farthest_points(points, 4, seed=1)
    assert torch.equal(found, farthest_points(points, 4, seed=1))
    assert not torch.equal(found, farthest_points(points, 4, seed=2))
    assert len(found[:, 0].unique()) > 10
    for cloud, rows in zip(points.numpy(), found, strict=True):
        np.testing.assert_array_equal(rows, plain_farthest(cloud, 4, int(rows[0])))
    for generator in (np.random.default_rng(1), torch.Generator().manual_seed(1)):
        first, second = (farthest_points(points, 4, seed=generator) for _ in range(2))
        assert not torch.equal(first, second)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_threads_precision_and_autocast_change_nothing(precision, monkeypatch):
    points = torch.from_numpy(np.stack([make_cloud("far", 300, 64), make_cloud("random", 300, 64)]))
    expected = np.stack([plain_nearest(p, p, 20) for p in points.numpy()])
    monkeypatch.setitem(distances._TILE, "cpu", 300 * 40)
    threads, before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.autocast("cpu", torch.bfloat16):
                np.testing.assert_array_equal(k_nearest(points, 20), expected)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)


def make_doubtful(kind, n, channels, rng):
    """Clouds whose distances float32 cannot tell apart, or not at all."""
    x = rng.standard_normal((n, channels))
    if kind == "shells":  # around the first point, at radii that differ by 1e-7
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        x *= 1 + 1e-7 * rng.integers(0, 5, (n, 1))
        x[0] = 0
    elif kind == "pairs":  # each point beside one that is 1e-7 away
        x[n // 2 :] = x[: n - n // 2] * (1 + 1e-7)
    elif kind == "offset":
        x = x * 1e-4 + 1e4
    elif kind == "outlier":  # its norm decides about the error of everybody
        x[-1] = 1e6
    elif kind == "two clusters":
        x = x * 1e-6 + np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
    elif kind == "few values":
        x = x.round()
    return x


@pairwise(
    kind=["shells", "pairs", "offset", "outlier", "two clusters", "few values", "random"],
    n=[30, 300],
    channels=[3, 64],
    scale=[1.0, 1e-20, 1e-160, 1e30, 1e140],
    k=[1, 20],
    groups_step=[64, 1],
)
def test_what_float32_cannot_tell_apart(kind, n, channels, scale, k, groups_step, monkeypatch):
    monkeypatch.setattr(nearest, "_GROUPS_STEP", groups_step)
    points = make_doubtful(kind, n, channels, np.random.default_rng([n, channels])) * scale
    expected = plain_nearest(points, points, k)
    np.testing.assert_array_equal(k_nearest(points, k), expected)
    monkeypatch.setattr(nearest, "_product_dtype", lambda points: torch.float64)
    np.testing.assert_array_equal(k_nearest(points, k), expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.sampled_from([1e-8, 1e-7, 1e-6, 1e-4]),
    st.sampled_from([0.0, 1.0, 1e3]),
)
def test_gaps_near_the_error_of_float32(seed, k, gap, offset):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 5))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    points = x * (1 + gap * rng.standard_normal((200, 1))) + offset
    queries = np.concatenate([np.full((1, 5), offset), points[:5]])
    np.testing.assert_array_equal(k_nearest(points, k, queries), plain_nearest(points, queries, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "offset", "outlier", "shells"])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
def test_products_are_as_near_as_they_say(dtype, kind, scale):
    rng = np.random.default_rng(0)
    points = make_doubtful(kind, 200, 64, rng) * scale
    queries = points[:50] + rng.standard_normal((50, 64)) * scale * 1e-3
    tensors = torch.from_numpy(points)[None], torch.from_numpy(queries)[None]
    products = distances.Products.of(*tensors, dtype)
    exact = torch.from_numpy(all_distances(points, queries))[None]
    if dtype == torch.float32:
        center = tensors[0].mean(1)
        norms = [(x - center).square().sum(-1).amax() for x in tensors]
        exact = exact / max(norms)
    off = (products.distances() - exact).abs()
    assert bool((off <= products.error).all())
    assert bool((products.error < (1e-4 if dtype == torch.float32 else 1e-12) * exact.amax()).all())


def test_candidates_are_found_in_float32_and_only_doubts_in_float64(monkeypatch):
    """The fast path runs for an ordinary cloud, and few pairs are computed again."""
    dtypes, pairs = [], []
    search, exact = nearest._search, distances.squared_distances
    monkeypatch.setattr(nearest, "_search", lambda *a: dtypes.append(a[3]) or search(*a))
    monkeypatch.setattr(
        nearest, "squared_distances", lambda a, b: pairs.append(len(a)) or exact(a, b)
    )
    k_nearest(torch.randn(1000, 64), 20)
    if torch.backends.mkl.is_available():
        assert set(dtypes) == {torch.float32}
    assert sum(pairs) < 2000
    points = torch.randn(1000, 64)
    points[-1] = 1e6
    dtypes.clear()
    k_nearest(points, 20)
    assert torch.float64 in dtypes


def test_other_dtypes_are_searched_as_they_are():
    x = make_cloud("random", 40, 3)
    for dtype in (torch.float16, torch.bfloat16):
        points = torch.from_numpy(x).to(dtype)
        expected = plain_nearest(points.float().numpy(), points.float().numpy(), 5)
        np.testing.assert_array_equal(k_nearest(points, 5), expected)
    assert interpolation_weights(points, points[:9])[1].dtype == torch.bfloat16


def test_no_gradient_and_no_change_of_the_points():
    points = torch.randn(2, 30, 3, requires_grad=True)
    before = points.detach().clone()
    weights = interpolation_weights(points, points[:, :9])[1]
    ball_query(points, points[:, :4], 0.5, 4)
    farthest_points(points, 4)
    assert not weights.requires_grad
    assert torch.equal(points.detach(), before)


def test_no_queries_have_no_neighbors():
    points = np.zeros((2, 5, 3))
    assert k_nearest(points, 4, points[:, :0]).shape == (2, 0, 4)
    assert ball_query(points[:0], points[:0], 1.0, 4).shape == (0, 5, 4)
    assert farthest_points(points[:0], 4).shape == (0, 4)
    flat, none = points[0], np.zeros(0, np.int64)
    assert k_nearest(flat[:0], 4, batch=none).shape == (0, 4)
    assert farthest_points(flat[:0], 4, batch=none).shape == (0,)


P = np.zeros((2, 5, 3), np.float32)
BAD = {
    "k=0": (ValueError, "1 or more, got 0", lambda: k_nearest(P, 0)),
    "k=True": (TypeError, "k is an int", lambda: k_nearest(P, True)),
    "k=1.5": (TypeError, "k is an int", lambda: k_nearest(P, 1.5)),  # type: ignore[arg-type]
    "samples": (ValueError, "num_samples has to be", lambda: farthest_points(P, 0)),
    "integers": (TypeError, "int64", lambda: k_nearest(P.astype(int), 1)),
    "list": (TypeError, "list", lambda: k_nearest([[1.0]], 1)),  # type: ignore[type-var]
    "mixed": (TypeError, "both tensors or both", lambda: k_nearest(P, 1, torch.zeros(2, 5, 3))),  # type: ignore[type-var]
    "vector": (ValueError, r"shape \(B, N, C\)", lambda: k_nearest(P[0, 0], 1)),
    "no channels": (ValueError, "at least 1", lambda: k_nearest(P[..., :0], 1)),
    "nan": (ValueError, "points has to be finite", lambda: k_nearest(P * np.nan, 1)),
    "inf": (ValueError, "centers has to be", lambda: ball_query(P, P + np.inf, 1.0, 1)),
    "large": (ValueError, "larger number", lambda: farthest_points(np.full((3, 1), 1e200), 1)),
    "empty": (ValueError, "no rows", lambda: k_nearest(P[:, :0], 1, P)),
    "empty samples": (ValueError, "no rows", lambda: farthest_points(P[:, :0], 1)),
    "channels": (ValueError, "same number", lambda: k_nearest(P, 1, P[..., :2])),
    "clouds": (ValueError, "same number", lambda: k_nearest(P, 1, P[:1])),
    "dimensions": (ValueError, "same number", lambda: k_nearest(P, 1, P[0])),
    "radius=0": (ValueError, "positive finite", lambda: ball_query(P, P, 0, 1)),
    "radius=nan": (ValueError, "positive finite", lambda: ball_query(P, P, np.nan, 1)),
    "radius=inf": (ValueError, "positive finite", lambda: ball_query(P, P, np.inf, 1)),
    "start": (ValueError, "from 0 to 4, got 5", lambda: farthest_points(P, 1, start=5)),
    "start=-1": (ValueError, "got -1", lambda: farthest_points(P, 1, start=-1)),
    "start=1.0": (TypeError, "start is an int", lambda: farthest_points(P, 1, start=1.0)),  # type: ignore[arg-type]
    "start=True": (TypeError, "start is an int", lambda: farthest_points(P, 1, start=True)),
    "both": (ValueError, "pass either", lambda: farthest_points(P, 1, start=1, seed=1)),
    "dense batch": (ValueError, "int64", lambda: k_nearest(P, 1, batch=np.zeros(2, int))),
    "short batch": (ValueError, "int64", lambda: k_nearest(P[0], 1, batch=np.zeros(4, int))),
    "float batch": (ValueError, "int64", lambda: k_nearest(P[0], 1, batch=np.zeros(5))),
    "negative": (ValueError, "from 0, got -1", lambda: k_nearest(P[0], 1, batch=np.full(5, -1))),
    "one batch": (
        ValueError,
        "both or neither",
        lambda: k_nearest(P[0], 1, P[0], batch=np.zeros(5, int)),
    ),
    "no points": (
        ValueError,
        "cloud 1 has rows of queries, but none of points",
        lambda: k_nearest(P[0], 1, P[0], batch=np.zeros(5, int), queries_batch=np.ones(5, int)),
    ),
    "queries_batch": (
        ValueError,
        "queries_batch is for queries",
        lambda: k_nearest(P[0], 1, queries_batch=np.zeros(5, int)),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    error, message, call = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_large_clouds_take_leaves_and_give_the_same(monkeypatch):
    points, seen = torch.randn(1500, 3), []
    monkeypatch.setattr(leaves, "_MIN_PAIRS", 1500 * 1500)
    real = leaves.Leaves.__init__

    def note(self, points):
        seen.append(len(points))
        real(self, points)

    monkeypatch.setattr(leaves.Leaves, "__init__", note)
    near, ball = k_nearest(points, 20), ball_query(points, points, 0.3, 20)
    assert seen == [1500] * 4  # points and queries, of either
    k_nearest(points[1:], 20)
    k_nearest(torch.randn(1500, 9), 20)  # too many dimensions
    assert len(seen) == 4
    p, few = points.numpy(), points[::60].numpy()
    np.testing.assert_array_equal(near[::60], plain_nearest(p, few, 20))
    np.testing.assert_array_equal(ball[::60], plain_ball(p, few, 0.3, 20))


def test_no_tile_holds_more_pairs_than_allowed(monkeypatch):
    """The most that one product may have, whatever the number of points."""
    largest = 0
    real = distances.Products.distances

    def watch(self):
        nonlocal largest
        result = real(self)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(distances.Products, "distances", watch)
    monkeypatch.setitem(distances._TILE, "cpu", 2000)
    k_nearest(torch.randn(3, 150, 16), 4)
    assert 150 <= largest <= 2000


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 64, 101])
def test_the_distances_that_decide_are_the_same_bits_everywhere(channels):
    points, queries = torch.randn(40, channels).double(), torch.randn(30, channels).double()
    found = distances.squared_distances(queries[:, None], points)
    np.testing.assert_array_equal(found, all_distances(points.numpy(), queries.numpy()))
    strided = distances.squared_distances(queries.t().contiguous().t()[:, None], points)
    assert torch.equal(found, strided)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_a_trace_does_not_record_constants():
    with pytest.raises(RuntimeError, match="as constants"):
        torch.jit.trace(lambda x: k_nearest(x, 2), torch.randn(5, 3), check_trace=False)


def test_compiled_code_calls_them_as_they_are():
    def all_of_them(x):
        rows, weights = interpolation_weights(x, x[:, :9])
        return (
            k_nearest(x, 5),
            farthest_points(x, 6),
            ball_query(x, x[:, :4], 0.5, 3),
            rows,
            weights,
        )

    points = torch.randn(2, 40, 3)
    compiled = torch.compile(all_of_them, backend="eager")(points)
    for found, expected in zip(compiled, all_of_them(points), strict=True):
        assert torch.equal(found, expected)


def test_few_queries_are_sorted_again(monkeypatch):
    """Of random points nearly all are certain at once: else this would be slow."""
    again = 0
    real = nearest._sort_exactly

    def count(points, cloud, *rest):
        nonlocal again
        again += len(cloud)
        return real(points, cloud, *rest)

    monkeypatch.setattr(nearest, "_sort_exactly", count)
    k_nearest(torch.randn(4, 500, 64), 20)
    assert again <= 20
