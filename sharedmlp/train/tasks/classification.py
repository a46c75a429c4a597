"""Classification of point clouds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from sharedmlp.models.saved import trained_metadata
from sharedmlp.reports.answers import classify_clouds
from sharedmlp.reports.calibration import calibrated_probabilities
from sharedmlp.train.calibration import ValidationCalibration, describe_training_data
from sharedmlp.train.lightning_internals import attached_datamodule
from sharedmlp.train.metrics import MeanClassAccuracy
from sharedmlp.train.tasks.base import BaseTask, Batch, Stage
from sharedmlp.train.tasks.evaluation import average_votes, gather_items
from sharedmlp.train.tasks.starting_network import StartingNetwork, make_network
from sharedmlp.utils.ranges import check_range


class ClassificationTask(BaseTask):
    """Train, validate and test a classifier of point clouds.

    The loss is cross entropy plus, for a model with T-Nets, the orthogonality penalty of its
    feature transform (Qi et al. 2017, section 4.2); validation and test report plain cross entropy.

    Logs `{train,val,test}/{loss,overall_accuracy,mean_class_accuracy}` over whole epochs and all
    processes, never averaged over batches or processes.

    All arguments are plain values, so that a checkpoint loads without unpickling objects, on any
    backend: `ClassificationTask.load_from_checkpoint(path, backend="conv1d")`.

    Args:
        class_names: The names of the classes, in the order of the labels.
        in_channels: The channels of a point; 6 with normals.
        model: A name that `sharedmlp.list_models()` gives, or the path of a class derived from
            `sharedmlp.models.PointCloudModel`, such as "mypackage.MyNet".
        options: Further arguments of the network by name, such as `global_channels`.
        pretrained: The weights to start from, of the network `model`: "modelnet40", or the path of
            a checkpoint, a safetensors file or a folder of `save_pretrained`. The options that it
            was made with hold, unless `options` has others that fit the weights. If the classes of
            the data are not all among those of the weights, the last layer is a new one.
        backend: What the shared layers are made of: "linear", "conv1d" or "conv2d".
        fused: Whether the last shared layers run fused with the max, if they can; the numbers are
            the same.
        search_precision: "float32", or "bfloat16": the winners of the max are found faster, and
            points almost as large may be taken for them.
        norm: "batch", or "sync_batch": the processes of a distributed training share the
            statistics of their batches, on any device, and train as one process with all of them.
        dropout: The dropout probability in the head, or one for each of its hidden layers.
        optimizer: "adamw", "adam" or "sgd".
        learning_rate: The highest learning rate.
        schedule: The schedule of the learning rate. "constant"; "cosine": down to zero at the last
            step; "step", as in the paper: halved every 20 epochs, together with batch norm's
            momentum, which starts at 0.5 and stays above 0.01.
        warmup: The share of all steps in which the learning rate rises linearly first.
        weight_decay: The decay of the weights; biases and norms have none. Decoupled with "adamw".
        momentum: The momentum of "sgd".
        label_smoothing: The share of the target spread evenly over all classes, in training.
        penalty_weight: The weight of the orthogonality penalty; 0.001 in the paper.
        freeze: "backbone" trains the head alone: everything before it stays as it is, the
            statistics of its batch norms included. "none" trains everything.
        backbone_lr_factor: The factor of the learning rate of everything before the head, such as
            0.1 for pretrained weights.

    Attributes:
        start: The network and where its weights come from, at the start; None in a task with a
            `configure_models` of its own.
        test_confusion: The confusion matrix of the last test, by `test_confusion.compute()`: a row
            a true class, a column a predicted one.
        calibration: The temperature of the last validation.
        rotations: In how many turns about the up axis `predict_step` sees a cloud.
        test_mistakes: `(index, label, prediction, probability)` of each cloud that the last test
            misclassified, with the probability of the predicted class.

    Raises:
        ValueError: If a name is unknown or a number out of range.
    """

    monitor = "val/overall_accuracy"
    monitor_mode = "max"
    start: StartingNetwork | None = None

    def __init__(
        self,
        class_names: list[str],
        in_channels: int = 3,
        model: str = "pointnet",
        backend: Literal["linear", "conv1d", "conv2d"] = "linear",
        fused: bool = True,
        search_precision: Literal["float32", "bfloat16"] = "float32",
        norm: Literal["batch", "sync_batch"] = "batch",
        dropout: float | list[float] = 0.3,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        learning_rate: float = 0.001,
        schedule: Literal["constant", "cosine", "step"] = "cosine",
        warmup: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        label_smoothing: float = 0.0,
        penalty_weight: float = 0.001,
        options: dict[str, Any] | None = None,
        pretrained: str | None = None,
        freeze: Literal["backbone", "none"] = "none",
        backbone_lr_factor: float = 1.0,
    ) -> None:
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
        check_range(0, 1, label_smoothing=label_smoothing)
        self.class_names = list(class_names)
        self.test_confusion = MulticlassConfusionMatrix(len(class_names), validate_args=False)
        self.calibration = ValidationCalibration()
        self.rotations = 1
        self.test_mistakes: list[tuple[int, int, int, float]] = []

    def configure_models(self) -> nn.Module:
        """Return the named classifier."""
        self.start = make_network(self.hparams)
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
        """Return cross entropy, smoothed in training."""
        smoothing = self.hparams["label_smoothing"] if stage == "train" else 0.0
        return nn.CrossEntropyLoss(label_smoothing=smoothing)

    def configure_metrics(self, stage: Stage) -> dict[str, Metric]:
        """Return overall accuracy and mean class accuracy."""
        num_classes = len(self.hparams["class_names"])
        return {
            "overall_accuracy": MulticlassAccuracy(
                num_classes, average="micro", validate_args=False
            ),
            "mean_class_accuracy": MeanClassAccuracy(num_classes, validate_args=False),
        }

    def on_validation_epoch_start(self) -> None:
        """Forget the logits of the validation before."""
        self.calibration.start(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the validation metrics, and what the temperature is fitted to."""
        logits = self(*self.network_inputs(batch))
        self.log_evaluation("val", logits, batch)
        self.calibration.update(logits, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Fit the temperature, to be saved with the weights that were validated."""
        self.calibration.finish(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the network was trained on, and its temperature.

        Raises:
            FloatingPointError: If a weight is not finite.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint["metadata"] = {
            **describe_training_data(attached_datamodule(self.trainer)),
            **self.calibration.metadata(self.global_step),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the metadata of the network as well.

        Raises:
            DataError: If the weights were trained on other classes.
        """
        super().on_load_checkpoint(checkpoint)
        self.model.metadata = trained_metadata(checkpoint)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accumulate the test metrics, the confusion matrix and the mistakes.

        If the batch has copies, their probabilities are averaged.
        """
        clouds = [batch["points"], *batch.get("copies", [])]
        logits = average_votes([self(points) for points in clouds])
        self.log_evaluation("test", logits, batch)
        self.test_confusion.update(logits, batch["label"])
        probabilities = calibrated_probabilities(logits, getattr(self.model, "metadata", {}))
        probability, prediction = probabilities.max(dim=1)
        wrong = prediction != batch["label"]
        columns = (batch["index"], batch["label"], prediction, probability)
        self.test_mistakes += zip(*(column[wrong].tolist() for column in columns), strict=True)

    def on_test_epoch_start(self) -> None:
        """Reset the confusion matrix and the mistakes, which outlive the test."""
        self.test_confusion.reset()
        self.test_mistakes = []

    def on_test_epoch_end(self) -> None:
        """Collect the mistakes of all processes, in the order of the data set."""
        if self.trainer.world_size > 1:
            self.test_mistakes = sorted(gather_items(self.trainer, self.test_mistakes))

    def report_test(self, folder: Path | None, ckpt_path: str | None) -> dict[str, Path]:
        """Print a table of the classes, and write it, the metrics and pictures of mistakes."""
        from sharedmlp.reports.test_report import report_test  # matplotlib, for those who test

        confusion = self.test_confusion.compute().cpu()  # exchanged with the other processes
        if not self.trainer.is_global_zero:
            return {}
        data = attached_datamodule(self.trainer)
        return report_test(
            confusion,
            self.test_mistakes,
            data.datasets["test"],
            self.class_names,
            up_axis=data.preprocessing["up_axis"],
            folder=folder,
            ckpt_path=ckpt_path,
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Return the answer of each cloud; with `rotations`, that of its most confident turn.

        Returns:
            "index", "label", "prediction" `(B,)`, "probabilities" `(B, num_classes)` at the
            temperature of the network, and "rotation" `(B,)`, in degrees.
        """
        data = attached_datamodule(self.trainer)
        preprocessing = getattr(data, "preprocessing", {})
        answers = classify_clouds(
            self,
            batch["points"],
            getattr(self.model, "metadata", {}),
            rotations=self.rotations,
            up_axis=preprocessing.get("up_axis", "z"),
            features=preprocessing.get("features", ()),
        )
        return {
            "index": batch["index"],
            "label": batch["label"],
            "prediction": answers.probabilities.argmax(dim=1),
            "probabilities": answers.probabilities,
            "rotation": answers.degrees,
        }
