"""Classification of point clouds as a LightningModule."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from sharedmlp.data import DataError
from sharedmlp.models import create_model, orthogonality_penalty
from sharedmlp.train.finite import check_loss, check_weights
from sharedmlp.train.metrics import MeanClassAccuracy, MeanLoss
from sharedmlp.train.optimizers import make_optimizer
from sharedmlp.train.resume import adapt_checkpoint, close_epoch, keep_best
from sharedmlp.train.schedules import (
    Steps,
    learning_rate_factor,
    norm_momentum,
    set_norm_momentum,
)
from sharedmlp.utils.seeds import derive_seed, run_seed

Batch = dict[str, Any]


class ClassificationTask(pl.LightningModule):
    """Trains, validates and tests a classifier of point clouds.

    The loss is cross entropy plus, for a model with T-Nets, the orthogonality penalty of its
    feature transform (Qi et al. 2017, section 4.2); validation and test report plain cross entropy.

    Logs ``{train,val,test}/{loss,overall_accuracy,mean_class_accuracy}`` over whole epochs and all
    processes, never averaged over batches or processes. After a test, ``test_confusion.compute()``
    is the confusion matrix, and ``test_mistakes`` lists ``[index, label, prediction]`` of the
    misclassified clouds.

    All arguments are plain values, so that a checkpoint loads without unpickling objects, on any
    backend: ``ClassificationTask.load_from_checkpoint(path, backend="conv1d")``.

    Args:
        class_names: Names of the classes, in the order of the labels.
        in_channels: Channels of a point; 6 with normals.
        model: A name that ``sharedmlp.list_models()`` gives.
        backend: What the shared layers are made of: ``linear``, ``conv1d`` or ``conv2d``.
        fused: Whether the last shared layers run fused with the max, where they can; the numbers
            are the same.
        search_precision: ``float32``, or ``bfloat16``: the winners of the max are found faster, and
            those almost as large may be taken for them.
        norm: ``batch``, or ``sync_batch``: the processes of a distributed training share the
            statistics of their batches, on any device, and train as one process with all of them.
        dropout: Dropout probability in the head.
        optimizer: ``adamw``, ``adam`` or ``sgd``.
        learning_rate: The highest.
        schedule: Of the learning rate. ``constant``; ``cosine``: down to zero at the last step;
            ``step``, as in the paper: halved every 20 epochs, together with batch norm's momentum,
            which starts at 0.5 and stays above 0.01.
        warmup: Share of all steps in which the learning rate rises linearly first.
        weight_decay: Of the weights; biases and batch norm have none. Decoupled with ``adamw``.
        momentum: Of ``sgd``.
        label_smoothing: Share of the target spread evenly over all classes, in training.
        penalty_weight: Weight of the orthogonality penalty; 0.001 in the paper.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    def __init__(
        self,
        class_names: list[str],
        in_channels: int = 3,
        model: str = "pointnet",
        backend: Literal["linear", "conv1d", "conv2d"] = "linear",
        fused: bool = True,
        search_precision: Literal["float32", "bfloat16"] = "float32",
        norm: Literal["batch", "sync_batch"] = "batch",
        dropout: float = 0.3,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        learning_rate: float = 0.001,
        schedule: Literal["constant", "cosine", "step"] = "cosine",
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        penalty_weight: float = 0.001,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.class_names = list(class_names)
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        if not 0.0 <= warmup < 1.0:
            raise ValueError(f"warmup is a share of all steps in [0, 1), got {warmup}")
        self.schedule = schedule
        self.warmup = warmup
        self._steps: Steps | None = None
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.label_smoothing = label_smoothing
        self.penalty_weight = penalty_weight
        num_classes = len(self.class_names)
        self.model = create_model(
            model,
            num_classes=num_classes,
            in_channels=in_channels,
            backend=backend,
            fused="auto" if fused else False,
            search_precision=search_precision,
            norm=norm,
            dropout=dropout,
        )
        self.metrics = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            overall = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
            mean_class = MeanClassAccuracy(num_classes, validate_args=False)
            self.metrics[f"{stage}/loss"] = MeanLoss()
            self.metrics[f"{stage}/overall_accuracy"] = overall
            self.metrics[f"{stage}/mean_class_accuracy"] = mean_class
        self.metrics["test/confusion"] = MulticlassConfusionMatrix(num_classes, validate_args=False)
        # Index in the data set, label and prediction.
        self.test_mistakes: list[list[int]] = []

    @property
    def test_confusion(self) -> Metric:
        """The confusion matrix of the last test: a row a true class, a column a predicted one."""
        metric = self.metrics["test/confusion"]
        assert isinstance(metric, Metric)
        return metric

    def forward(self, points: Tensor) -> Tensor:
        """Returns the logits ``(B, num_classes)`` of points ``(B, N, in_channels)``."""
        return self.model(points)  # type: ignore[no-any-return]

    def setup(self, stage: str) -> None:
        """Takes on the trainer's precision before a checkpoint is loaded.

        Lightning does so afterwards, and a float64 training would go on with float32's digits.
        """
        self.trainer.precision_plugin.convert_module(self)

    def on_train_start(self) -> None:
        """Sets the learning rate of the step, as this task has it and not as it was saved."""
        # Asked for before training runs, Lightning would build the loaders before a checkpoint's
        # epoch is restored.
        total = self.trainer.estimated_stepping_batches
        batches = self.trainer.num_training_batches
        self._steps = Steps(total, -(-batches // self.trainer.accumulate_grad_batches))
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        for group, rate, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(schedule.last_epoch)

    def on_train_epoch_start(self) -> None:
        """Lowers batch norm's momentum along with the learning rate."""
        if self.schedule == "step":
            set_norm_momentum(self.model, norm_momentum(self.current_epoch))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds dropout by (run, epoch, batch, process): a resumed run repeats a whole one."""
        torch.manual_seed(derive_seed(run_seed(), self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch.

        Raises:
            FloatingPointError: If it is NaN or infinite.
        """
        output = self.model.forward_detailed(batch["points"])
        loss = functional.cross_entropy(
            output.logits, batch["label"], label_smoothing=self.label_smoothing
        )
        if output.feature_transform is not None:
            loss = loss + self.penalty_weight * orthogonality_penalty(output.feature_transform)
        check_loss(loss, batch["points"], batch["index"], self.current_epoch, batch_idx)
        self._log_metrics("train", loss, output.logits.detach(), batch["label"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulates the validation metrics."""
        self._log_evaluation("val", self(batch["points"]), batch["label"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulates the test metrics and the confusion matrix, of votes where there are any."""
        clouds = [batch["points"], *batch.get("copies", [])]
        votes = torch.stack([self(points).log_softmax(dim=1) for points in clouds])
        logits = votes.logsumexp(0) - math.log(len(clouds))
        self._log_evaluation("test", logits, batch["label"])
        self.test_confusion.update(logits, batch["label"])
        answers = torch.stack([batch["index"], batch["label"], logits.argmax(dim=1)], dim=1)
        self.test_mistakes += answers[answers[:, 1] != answers[:, 2]].tolist()

    def on_test_epoch_start(self) -> None:
        """Empties the confusion matrix and the mistakes, which outlive the test."""
        self.test_confusion.reset()
        self.test_mistakes = []

    def on_test_epoch_end(self) -> None:
        """Brings together the mistakes of all processes, in the order of the data set."""
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(parts, self.test_mistakes)
            self.test_mistakes = sorted(mistake for part in parts for mistake in part)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Returns ``index``, ``label``, ``prediction`` (B,) and ``probabilities`` (B, classes)."""
        probabilities = self(batch["points"]).softmax(dim=1)
        return {
            "index": batch["index"],
            "label": batch["label"],
            "prediction": probabilities.argmax(dim=1),
            "probabilities": probabilities,
        }

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and the schedule of its learning rate."""
        optimizer = self._make_optimizer()
        # By steps: a schedule by epochs is advanced after the epoch's checkpoint has been written,
        # and a resumed run would lag one epoch behind.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self._factor), "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what clouds have to be like, for those who run the network elsewhere.

        Raises:
            FloatingPointError: If a weight is not finite.
        """
        check_weights(checkpoint["state_dict"])
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["preprocessing"] = dict(getattr(datamodule, "preprocessing", {}))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """In a fit, takes up the optimizer's state of any backend, and an epoch that had ended.

        Refuses the weights of other classes: labels would silently mean something else.
        """
        trained = checkpoint.get("hyper_parameters", {}).get("class_names")
        if trained is not None and list(trained) != self.class_names:
            raise DataError(
                f"the checkpoint was trained on the {len(trained)} classes {list(trained)}, "
                f"but the data has the {len(self.class_names)} classes {self.class_names}: "
                "point --data.root at data with the same classes, or train on this data"
            )
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            adapt_checkpoint(checkpoint, self._make_optimizer())
            close_epoch(checkpoint)
        if self._trainer is not None:
            keep_best(checkpoint, self._trainer)

    def _make_optimizer(self) -> Optimizer:
        return make_optimizer(
            self.model, self.optimizer, self.learning_rate, self.weight_decay, self.momentum
        )

    def _factor(self, step: int) -> float:
        """Returns the learning rate's factor at a step, once training runs."""
        if self._steps is None:
            return 1.0
        return learning_rate_factor(self.schedule, step, self._steps, self.warmup)

    def _log_evaluation(self, stage: str, logits: Tensor, labels: Tensor) -> None:
        """Logs the metrics of a batch without augmentation."""
        self._log_metrics(stage, functional.cross_entropy(logits, labels), logits, labels)

    def _log_metrics(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch to the epoch's metrics."""
        for name, values in {
            "loss": (loss, len(labels)),
            "overall_accuracy": (logits, labels),
            "mean_class_accuracy": (logits, labels),
        }.items():
            metric = self.metrics[f"{stage}/{name}"]
            assert isinstance(metric, Metric)
            metric.update(*values)
            self.log(
                f"{stage}/{name}", metric, on_step=False, on_epoch=True, batch_size=len(labels)
            )
