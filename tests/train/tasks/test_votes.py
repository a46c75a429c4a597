"""Votes in a test: over what copies of a cloud, and what becomes of them."""

import pytest
import torch

from tests.train.tiny import ArrayDataModule, make_task, make_trainer


def run(pool_size, votes):
    """Tests a network; returns its task, the clouds that it saw, and the data."""
    task, seen = make_task().eval(), []
    task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    data = ArrayDataModule(pool_size=pool_size, test=(2, 1, 1), test_votes=votes)
    make_trainer().test(task, data, verbose=False)
    return task, list(seen), data


def shape_of(points):
    """Clouds without their scale along each axis, as sorted coordinates."""
    return (points / points.abs().amax(1, keepdim=True)).sort(1).values


def test_copies_are_scaled_and_the_first_is_the_cloud_itself():
    _, (first, *copies), data = run(16, votes=4)
    assert len(copies) == 3
    assert torch.equal(first, data.datasets["test"].__getitems__([0, 1, 2, 3])["points"])
    for copy in copies:
        factors = copy / first
        torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
        assert ((factors > 0.8 - 1e-5) & (factors < 1.25 + 1e-5)).all()
        assert factors[0, 0].unique().numel() == 3
    assert not torch.equal(copies[0], copies[1])
    assert all(map(torch.equal, run(16, votes=4)[1], [first, *copies]))


def test_copies_have_other_points_where_there_are_more():
    _, clouds, _ = run(24, votes=3)
    assert not torch.allclose(shape_of(clouds[0]), shape_of(clouds[1]), atol=1e-3)
    assert not torch.allclose(shape_of(clouds[1]), shape_of(clouds[2]), atol=1e-3)


def test_the_answer_is_the_mean_of_the_probabilities(monkeypatch):
    task, clouds, _ = run(24, votes=3)
    logits = []
    monkeypatch.setattr(task, "log_evaluation", lambda stage, values, batch: logits.append(values))
    batch = {"points": clouds[0], "copies": clouds[1:], "label": torch.zeros(4).long()}
    with torch.inference_mode():  # as the test before it, which made the metrics
        task.test_step({**batch, "index": torch.arange(4)}, 0)
        expected = torch.stack([task.model(points).softmax(1) for points in clouds]).mean(0)
    torch.testing.assert_close(logits[0].exp(), expected)


def test_one_vote_is_the_cloud_itself():
    assert len(run(24, votes=1)[1]) == 1


def test_no_vote_is_refused():
    with pytest.raises(ValueError, match="test_votes is at least 1, the cloud itself, got 0"):
        ArrayDataModule(test_votes=0)
