"""What the tasks share: how a network on point clouds is trained, measured, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from sharedmlp.models.saved import read_metadata
from sharedmlp.reports.metrics import report_metrics
from sharedmlp.train.finite_checks import (
    check_finite_loss,
    check_finite_weights,
    check_optimizer_precision,
)
from sharedmlp.train.lightning_internals import (
    attached_datamodule,
    attached_trainer,
    complete_epoch,
    convert_to_precision,
    is_fitting,
    keep_best_checkpoint,
    run_seed,
)
from sharedmlp.train.metrics import MeanLoss
from sharedmlp.train.optimizer_state import adapt_checkpoint
from sharedmlp.train.optimizers import make_optimizer
from sharedmlp.train.schedules import (
    NormWarmup,
    Steps,
    learning_rate_factor,
    norm_momentum,
    set_learning_rates,
    set_norm_momentum,
)
from sharedmlp.train.tasks.checkpoint_checks import (
    check_channels,
    check_classes,
    match_preprocessing,
)
from sharedmlp.train.tasks.freezing import (
    freeze_backbone,
    frozen_forward,
    get_head,
    keep_backbone_statistics,
)
from sharedmlp.utils.ranges import check_range
from sharedmlp.utils.seeds import derive_seed

Batch = dict[str, Any]
Stage = Literal["train", "val", "test"]


class BaseTask(pl.LightningModule):
    """The base of all tasks: what is trained, by which loss, and how it is measured.

    A task overrides `configure_models`, `configure_losses` and `configure_metrics`, which
    `__init__` calls once and which read the arguments of the task from `self.hparams`: those that
    its own `__init__` takes, by name or passed on as `**options`. A step feeds the network with
    `network_inputs`, the loss of its stage with the logits and the labels of the batch, and the
    metrics with `metric_inputs`; a task with other steps overrides them too.

    Logs `{train,val,test}/loss` and `{train,val,test}/NAME` for each metric, over whole epochs and
    all processes, never averaged over batches or processes.

    All arguments are plain values, so that a checkpoint loads without unpickling objects, on any
    backend.

    Args:
        optimizer: "adamw", "adam" or "sgd".
        learning_rate: The highest learning rate.
        schedule: The schedule of the learning rate. "constant"; "cosine": down to zero at the last
            step; "step", as in the PointNet paper: halved every 20 epochs, together with batch
            norm's momentum, which starts at 0.5 and stays above 0.01.
        warmup: The share of all steps in which the learning rate rises linearly first.
        weight_decay: The decay of the weights; biases and norms have none. Decoupled with "adamw".
        momentum: The momentum of "sgd".
        penalty_weight: The weight of the network's extra loss, such as the orthogonality penalty of
            PointNet (Qi et al. 2017, section 4.2, where it is 0.001).
        freeze: "backbone" trains the head alone: everything before it stays as it is, the
            statistics of its batch norms included. "none" trains everything.
        backbone_lr_factor: The factor of the learning rate of everything before the head.

    Attributes:
        model: The network; it follows the protocol of `sharedmlp.models`.
        losses: The loss of each stage, as "stage/loss".
        metrics: The metrics of each stage, as "stage/name".
        monitor: The metric that the best checkpoint is chosen by.
        monitor_mode: "max" or "min": whether a high or a low value of it is good.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    monitor: str = "val/loss"
    monitor_mode: str = "min"
    model: Any

    def __init__(
        self,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        learning_rate: float = 0.001,
        schedule: Literal["constant", "cosine", "step"] = "cosine",
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        penalty_weight: float = 0.001,
        freeze: Literal["backbone", "none"] = "none",
        backbone_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # the arguments of the subclass
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay)
        check_range(0, 1, momentum=momentum)
        if not 0.0 <= warmup < 1.0:
            raise ValueError(f"warmup is a share of all steps in [0, 1), got {warmup}")
        if freeze not in ("backbone", "none"):
            raise ValueError(f'freeze is "backbone" or "none", got {freeze!r}')
        if backbone_lr_factor < 0.0:
            raise ValueError(f"backbone_lr_factor is at least 0, got {backbone_lr_factor}")
        self._frozen = freeze
        self.backbone_lr_factor = backbone_lr_factor
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.penalty_weight = penalty_weight
        self._steps: Steps | None = None
        self._norm_warmup = NormWarmup()
        self.model = self.configure_models()
        self.losses = nn.ModuleDict()
        self.metrics = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            self.losses[f"{stage}/loss"] = self.configure_losses(stage)
            self.metrics[f"{stage}/loss"] = MeanLoss()
            for name, metric in self.configure_metrics(stage).items():
                self.metrics[f"{stage}/{name}"] = metric
        if freeze == "backbone":
            freeze_backbone(self.model)
        self.train()  # weights may come in a network in evaluation mode

    def configure_models(self) -> nn.Module:
        """Return the network to train."""
        raise NotImplementedError(f"{type(self).__name__} has no configure_models")

    def configure_losses(self, stage: Stage) -> nn.Module:
        """Return the loss of a stage: a module of (logits, labels), the mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no configure_losses")

    def configure_metrics(self, stage: Stage) -> dict[str, Metric]:
        """Return the further metrics of a stage by name, each updated with `metric_inputs`."""
        return {}

    def make_optimizer(self) -> Optimizer:
        """Return the optimizer, at the highest learning rate."""
        return make_optimizer(
            self.model,
            self.optimizer,
            self.learning_rate,
            self.weight_decay,
            self.momentum,
            backbone_lr_factor=self.backbone_lr_factor,
            head=get_head(self.model) if self.backbone_lr_factor != 1.0 else None,
        )

    def train(self, mode: bool = True) -> BaseTask:
        """Set the mode of all modules; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if mode and self._frozen == "backbone":
            keep_backbone_statistics(self.model)
        return self

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule of its learning rate."""
        optimizer = self.make_optimizer()
        check_optimizer_precision(optimizer)
        # By steps: a schedule by epochs is advanced after the epoch's checkpoint has been written,
        # and a resumed run would lag one epoch behind.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self._factor), "interval": "step"},
        }

    def network_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return what the network is called with: the points (B, N, in_channels) of a batch."""
        return (batch["points"],)

    def metric_inputs(self, logits: Tensor, batch: Batch) -> tuple[Any, ...]:
        """Return what the metrics are updated with: the logits and labels of a batch."""
        return logits, batch["label"]

    def loss_count(self, stage: Stage, labels: Tensor) -> int | Tensor:
        """Return how many items the loss of a batch is the mean of."""
        return len(labels)

    def forward(self, *inputs: Any) -> Tensor:
        """Return the logits of what `network_inputs` returns."""
        return self.model(*inputs)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            FloatingPointError: If it is NaN or infinite.
        """
        inputs = self.network_inputs(batch)
        if self._frozen == "backbone":
            logits, extra = frozen_forward(self.model, *inputs), None
        else:
            output = self.model.forward_detailed(*inputs)
            logits, extra = output.logits, self.model.extra_loss(output)
        loss: Tensor = self.losses["train/loss"](logits, batch["label"])
        if extra is not None:
            loss = loss + self.penalty_weight * extra
        check_finite_loss(loss, batch["points"], batch["index"], self.current_epoch, batch_idx)
        self.log_metrics("train", loss, logits.detach(), batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the validation metrics."""
        self.log_evaluation("val", self(*self.network_inputs(batch)), batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the test metrics."""
        self.log_evaluation("test", self(*self.network_inputs(batch)), batch)

    def log_evaluation(self, stage: Stage, logits: Tensor, batch: Batch) -> None:
        """Add a batch without augmentation to the metrics of the epoch."""
        loss = self.losses[f"{stage}/loss"](logits, batch["label"])
        self.log_metrics(stage, loss, logits, batch)

    def log_metrics(self, stage: Stage, loss: Tensor, logits: Tensor, batch: Batch) -> None:
        """Add a batch to the metrics of the epoch."""
        labels = batch["label"]
        inputs = self.metric_inputs(logits, batch)
        for key, metric in self.metrics.items():
            if not key.startswith(f"{stage}/"):
                continue
            assert isinstance(metric, Metric)
            if isinstance(metric, MeanLoss):
                metric.update(loss, self.loss_count(stage, labels))
            else:
                metric.update(*inputs)
            self.log(key, metric, on_step=False, on_epoch=True, batch_size=len(labels))

    def report_test(self, folder: Path | None, ckpt_path: str | None) -> dict[str, Path]:
        """Print what the test that has just run measured, and write files about it.

        Called in every process of a distributed test; the first one reports.

        Args:
            folder: Where files go; None writes nothing.
            ckpt_path: The checkpoint that was tested.

        Returns:
            What was written: for each file its description and path.
        """
        if not self.trainer.is_global_zero:
            return {}
        return report_metrics(self.trainer.callback_metrics, folder, ckpt_path)

    def setup(self, stage: str) -> None:
        """Take the trainer's precision before a checkpoint is loaded."""
        convert_to_precision(self)

    def on_train_start(self) -> None:
        """Set the learning rate of the step, as this task has it and not as it was saved."""
        # Asked for before training runs, Lightning would build the loaders before a checkpoint's
        # epoch is restored.
        total = self.trainer.estimated_stepping_batches
        batches = self.trainer.num_training_batches
        self._steps = Steps(total, -(-batches // self.trainer.accumulate_grad_batches))
        if self.schedule != "step":
            self._norm_warmup.start(self.model)
        schedule = self.lr_schedulers()
        if not isinstance(schedule, LambdaLR):  # of a task with a schedule of its own
            return
        if self._factor in schedule.lr_lambdas:
            # A search for the learning rate has changed the attribute alone.
            schedule.base_lrs = [group["lr"] for group in self.make_optimizer().param_groups]
        set_learning_rates(schedule)

    def on_train_epoch_start(self) -> None:
        """Lower batch norm's momentum along with the learning rate."""
        if self.schedule == "step":
            set_norm_momentum(self.model, norm_momentum(self.current_epoch))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by (run, epoch, batch, process), so that a resumed run repeats it."""
        torch.manual_seed(derive_seed(run_seed(), self.current_epoch, batch_idx, self.global_rank))
        self._norm_warmup.step()

    def on_train_end(self) -> None:
        """Give batch norm its own momentum."""
        self._norm_warmup.stop()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what clouds have to be like, for those who run the network elsewhere.

        Raises:
            FloatingPointError: If a weight is not finite.
        """
        check_finite_weights(checkpoint["state_dict"])
        datamodule = attached_datamodule(self.trainer)
        checkpoint["preprocessing"] = dict(getattr(datamodule, "preprocessing", {}))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """In a fit, take the optimizer's state from any backend, and an epoch that had ended.

        Raises:
            DataError: If the weights were trained on other classes: labels would silently mean
                something else.
        """
        check_classes(checkpoint, self.hparams)
        check_channels(checkpoint, self.hparams)
        trainer = attached_trainer(self)
        if trainer is None:
            return
        trained_on = read_metadata(checkpoint.get("preprocessing", {}))
        match_preprocessing(trainer, trained_on)
        if is_fitting(trainer):
            adapt_checkpoint(checkpoint, self.make_optimizer())
            complete_epoch(checkpoint)
        keep_best_checkpoint(checkpoint, trainer)

    def _factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, 1 before training runs."""
        if self._steps is None:
            return 1.0
        return learning_rate_factor(self.schedule, step, self._steps, self.warmup)
