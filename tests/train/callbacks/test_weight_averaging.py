import pytest
import pytorch_lightning as pl
import torch

from sharedmlp.train import EMAWithWarmup
from tests.train.tiny import ArrayDataModule, make_task, make_trainer


class Weights(pl.Callback):
    """Collects a weight after each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, task, *_):
        self.seen.append(next(task.parameters()).detach().clone())


@pytest.mark.parametrize("decay", [0.99, 0.3])
def test_the_average_is_over_about_the_last_tenth_and_counters_count(decay, tmp_path):
    weights, task = Weights(), make_task(learning_rate=0.01)
    trainer = make_trainer(
        max_epochs=2, callbacks=[weights, EMAWithWarmup(decay)], num_sanity_val_steps=0
    )
    trainer.fit(task, ArrayDataModule())
    expected = weights.seen[0]
    for step, weight in enumerate(weights.seen[1:], start=1):
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * weight
    # A fit ends with the average.
    torch.testing.assert_close(next(task.parameters()).detach(), expected)
    assert not torch.equal(expected, weights.seen[-1])
    counters = [b for name, b in task.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(counter) for counter in counters} == {len(weights.seen)}


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay is a share"):
        EMAWithWarmup(decay)
