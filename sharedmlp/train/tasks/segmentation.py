"""Segmentation of point clouds: the parts of shapes, the classes of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torchmetrics import Metric

from sharedmlp.data import DataError
from sharedmlp.models.saved import trained_metadata
from sharedmlp.reports.iou import predict_points
from sharedmlp.reports.worst_clouds import WorstClouds
from sharedmlp.train.calibration import describe_training_data
from sharedmlp.train.lightning_internals import attached_datamodule
from sharedmlp.train.losses import PointCrossEntropy
from sharedmlp.train.metrics import PointConfusion, PointScore, ShapeMeanIoU
from sharedmlp.train.tasks.base import BaseTask, Batch, Stage
from sharedmlp.train.tasks.evaluation import average_votes, gather_items
from sharedmlp.train.tasks.segmentation_checks import check_class_weights, check_parts
from sharedmlp.train.tasks.starting_network import StartingNetwork
from sharedmlp.train.tasks.starting_segmenter import make_segmenter
from sharedmlp.utils.ranges import check_range


class SegmentationTask(BaseTask):
    """Train, validate and test a network with a class for every point.

    The loss is cross entropy of the points plus, for a model with T-Nets, the orthogonality penalty
    of its feature transform; validation and test report plain cross entropy. Points with the label
    -1 count nowhere.

    Logs `{train,val,test}/{loss,overall_accuracy,mean_class_accuracy,mean_iou}` over the points of
    whole epochs and all processes, never averaged over batches or processes. If the shapes have
    categories, a point is one of the parts of the category of its shape, which is known, and both
    protocols of ShapeNetPart are logged, too: `instance_mean_iou`, the mean over all shapes, and
    `class_mean_iou`, the mean over the categories of the mean over their shapes; a part that is
    neither true nor predicted counts 1.

    A batch has "points" `(B, N, in_channels)`, "label" `(B, N)`, "index" `(B,)` and, if the shapes
    have categories, "category" `(B,)`.

    Args:
        class_names: The names of the classes, in the order of the labels.
        in_channels: The channels of a point; 6 with normals.
        category_names: The names of the categories of shapes, in their order, if they have any.
        parts_of_category: The classes of the parts of each category.
        model: A name that `sharedmlp.list_models(task="segmentation")` gives, or the path of a
            class derived from `sharedmlp.models.PointCloudModel`, such as "mypackage.MyNet".
        options: Further arguments of the network by name, such as `global_channels`.
        pretrained: The weights to start from: the path of a checkpoint, a safetensors file or a
            folder of `save_pretrained` of the network `model`, or those of a classifier of the same
            family, such as "modelnet40" for "pointnet_vanilla": then all layers before its head are
            taken over, with their widths, and the others are new.
        tell_category: Whether the network is told the category of a shape, if shapes have any.
        backend: What the shared layers are made of: "linear", "conv1d" or "conv2d".
        fused: Whether layers run fused with the max, if they can; the numbers are the same.
        search_precision: "float32", or "bfloat16": the winners of the max are found faster, and
            points almost as large may be taken for them.
        norm: "batch", or "sync_batch": the processes of a distributed training share the
            statistics of their batches, on any device, and train as one process with all of them.
        dropout: The dropout probability in the head, or one for each of its hidden layers; None for
            that of the network's paper.
        optimizer: "adamw", "adam" or "sgd".
        learning_rate: The highest learning rate.
        schedule: The schedule of the learning rate. "constant"; "cosine": down to zero at the last
            step; "step", as in the paper: halved every 20 epochs, together with batch norm's
            momentum, which starts at 0.5 and stays above 0.01.
        warmup: The share of all steps in which the learning rate rises linearly first.
        weight_decay: The decay of the weights; biases and norms have none. Decoupled with "adamw".
        momentum: The momentum of "sgd".
        class_weights: The weight of each class in the loss of the training, in their order.
        label_smoothing: The share of the target spread evenly over all classes, in training.
        penalty_weight: The weight of the orthogonality penalty; 0.001 in the paper.
        freeze: "backbone" trains the head alone: everything before it stays as it is, the
            statistics of its batch norms included. "none" trains everything.
        backbone_lr_factor: The factor of the learning rate of everything before the head.

    Attributes:
        start: The network and where its weights come from, at the start; None in a task with a
            `configure_models` of its own.
        test_confusion: The confusion matrix of the points of the last test, by
            `test_confusion.compute()`: a row a true class, a column a predicted one.
        test_category_iou: Likewise the mean intersection over union of the shapes of each category.
        worst_clouds: Those of the last test.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    monitor = "val/mean_iou"
    monitor_mode = "max"
    start: StartingNetwork | None = None

    def __init__(
        self,
        class_names: list[str],
        in_channels: int = 3,
        category_names: list[str] | None = None,
        parts_of_category: list[list[int]] | None = None,
        model: str = "pointnet",
        tell_category: bool = True,
        backend: Literal["linear", "conv1d", "conv2d"] = "linear",
        fused: bool = True,
        search_precision: Literal["float32", "bfloat16"] = "float32",
        norm: Literal["batch", "sync_batch"] = "batch",
        dropout: float | list[float] | None = None,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        learning_rate: float = 0.001,
        schedule: Literal["constant", "cosine", "step"] = "cosine",
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        penalty_weight: float = 0.001,
        options: dict[str, Any] | None = None,
        pretrained: str | None = None,
        freeze: Literal["backbone", "none"] = "none",
        backbone_lr_factor: float = 1.0,
    ) -> None:
        check_range(0, 1, label_smoothing=label_smoothing)
        check_class_weights(class_weights, class_names)
        check_parts(class_names, category_names, parts_of_category)
        super().__init__(
            optimizer=optimizer,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup=warmup,
            weight_decay=weight_decay,
            momentum=momentum,
            penalty_weight=penalty_weight,
            freeze=freeze,
            backbone_lr_factor=backbone_lr_factor,
        )
        self.class_names = list(class_names)
        self.test_confusion = PointConfusion(len(class_names))
        self.test_category_iou = ShapeMeanIoU(self.parts_of_category, "none")
        self.worst_clouds = WorstClouds(len(class_names))

    @property
    def parts_of_category(self) -> list[list[int]]:
        """The classes of the parts of each category of shapes; empty if they have none."""
        return self.hparams["parts_of_category"] or []

    @property
    def num_categories(self) -> int:
        """The number of categories that the network is told; 0 for none."""
        return len(self.parts_of_category) if self.hparams["tell_category"] else 0

    def configure_models(self) -> nn.Module:
        """Return the named network."""
        self.start = make_segmenter(self.hparams, self.num_categories)
        # A checkpoint makes the network again from these, and needs no other file.
        self.hparams.update(self.start.hyperparameters)
        return self.start.model

    def setup(self, stage: str) -> None:
        """Say what a pretrained network starts from, and match the clouds of an evaluation."""
        super().setup(stage)
        if self.start is not None:
            self.start.setup(self.trainer)

    def on_train_start(self) -> None:
        """Let a new last layer count as trained."""
        super().on_train_start()
        if self.start is not None:
            self.start.is_trained = True

    def configure_losses(self, stage: Stage) -> nn.Module:
        """Return cross entropy, weighted and smoothed in training."""
        if stage != "train":
            return PointCrossEntropy()
        return PointCrossEntropy(self.hparams["class_weights"], self.hparams["label_smoothing"])

    def configure_metrics(self, stage: Stage) -> dict[str, Metric]:
        """Return the accuracies and intersections over unions."""
        count = len(self.hparams["class_names"])
        metrics: dict[str, Metric] = {
            "overall_accuracy": PointScore(count, "overall_accuracy"),
            "mean_class_accuracy": PointScore(count, "mean_class_accuracy"),
            "mean_iou": PointScore(count, "mean_iou"),
        }
        if self.parts_of_category:
            metrics["instance_mean_iou"] = ShapeMeanIoU(self.parts_of_category, "instance")
            metrics["class_mean_iou"] = ShapeMeanIoU(self.parts_of_category, "class")
        return metrics

    def network_inputs(self, batch: Batch) -> tuple[Any, ...]:
        """Return the points of a batch, and the categories if the network is told them."""
        if self.num_categories:
            return batch["points"], batch["category"]
        return (batch["points"],)

    def metric_inputs(self, logits: Tensor, batch: Batch) -> tuple[Any, ...]:
        """Return the predicted classes, the labels, and the categories of the shapes or None."""
        categories = batch["category"] if self.parts_of_category else None
        predictions = predict_points(logits, categories, self.parts_of_category)
        return predictions, batch["label"], categories

    def loss_count(self, stage: Stage, labels: Tensor) -> int | Tensor:
        """Return the number of points that count, or the sum of their weights."""
        loss = self.losses[f"{stage}/loss"]
        assert isinstance(loss, PointCrossEntropy)
        return loss.count(labels)

    def on_test_epoch_start(self) -> None:
        """Reset what outlives the test."""
        self.test_confusion.reset()
        self.test_category_iou.reset()
        self.worst_clouds = WorstClouds(len(self.class_names))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the test metrics, the confusion matrix and the worst clouds.

        If the batch has copies of the same points, the probabilities are averaged.
        """
        clouds = [batch["points"], *batch.get("copies", [])]
        inputs = [self.network_inputs({**batch, "points": points}) for points in clouds]
        logits = average_votes([self(*some) for some in inputs])
        self.log_evaluation("test", logits, batch)
        predictions, labels, categories = self.metric_inputs(logits, batch)
        self.test_confusion.update(predictions, labels)
        if categories is not None:
            self.test_category_iou.update(predictions, labels, categories)
        self.worst_clouds.update(batch["points"], labels, predictions, batch["index"])

    def on_test_epoch_end(self) -> None:
        """Collect the worst clouds of all processes."""
        if self.trainer.world_size > 1:
            self.worst_clouds.merge(gather_items(self.trainer, self.worst_clouds.clouds))

    def report_test(self, folder: Path | None, ckpt_path: str | None) -> dict[str, Path]:
        """Print a table of the classes, and write it, the metrics and pictures of the worst."""
        from sharedmlp.reports.segmentation_report import report_segmentation  # matplotlib

        # Exchanged with the other processes.
        confusion, categories = self.test_confusion.compute().cpu(), {}
        if self.parts_of_category:
            values = self.test_category_iou.compute().tolist()
            categories = dict(zip(self.hparams["category_names"], values, strict=True))
        if not self.trainer.is_global_zero:
            return {}
        data = attached_datamodule(self.trainer)
        names = data.datasets["test"].pool.names
        return report_segmentation(
            confusion,
            self.worst_clouds.clouds,
            self.class_names,
            metrics={
                name.partition("/")[2]: float(value)
                for name, value in self.trainer.callback_metrics.items()
                if name.startswith("test/")
            },
            category_iou=categories,
            name_cloud=lambda index: Path(names[index]).name,
            up_axis=data.preprocessing["up_axis"],
            folder=folder,
            ckpt_path=ckpt_path,
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which network it is, and what it was trained on.

        Raises:
            FloatingPointError: If a weight is not finite.
        """
        super().on_save_checkpoint(checkpoint)
        network: dict[str, Any] = {"task": "segmentation"}
        if self.num_categories:
            network["num_categories"] = self.num_categories
        checkpoint["network"] = network
        checkpoint["metadata"] = describe_training_data(attached_datamodule(self.trainer))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the metadata of the network as well.

        Raises:
            DataError: If the weights were trained on other classes or categories.
        """
        own = self.hparams["category_names"]
        trained = checkpoint.get("hyper_parameters", {}).get("category_names")
        if (trained or []) != (own or []):
            raise DataError(
                f"the checkpoint was trained on the categories {trained or []}, and the data has "
                f"{own or []}: point --data.root at data with the same categories in the same "
                "order, or train on this data"
            )
        super().on_load_checkpoint(checkpoint)
        self.model.metadata = trained_metadata(checkpoint)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return the answer for each point.

        Returns:
            "index" `(B,)`, "label" and "prediction" `(B, N)`.
        """
        logits = self(*self.network_inputs(batch))
        predictions, labels, _ = self.metric_inputs(logits, batch)
        return {"index": batch["index"], "label": labels, "prediction": predictions}
