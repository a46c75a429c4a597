"""`sharedmlp fit | validate | test | predict`: Lightning's command line for tasks and data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from torch import distributed

from sharedmlp.cli.checkpoint_arguments import (
    DEFAULT_CLASS_PATH,
    FROM_DATA,
    merge_checkpoint,
)
from sharedmlp.cli.instantiation import explain_errors
from sharedmlp.cli.recipes import resolve_recipes
from sharedmlp.cli.starting_weights import named_weights, named_weights_file
from sharedmlp.cli.typed_arguments import TypedModelArguments
from sharedmlp.data import DataError
from sharedmlp.train import (
    AtomicCheckpointIO,
    BaseTask,
    ClassificationTask,
    EpochLog,
    PointCloudDataModule,
    StopOnSignal,
)
from sharedmlp.train.callbacks.prediction_writer import PredictionWriter
from sharedmlp.train.callbacks.save_config import AtomicSaveConfigCallback
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.lightning_internals import (
    ExtensibleCLI,
    add_callback,
    remove_callbacks,
    replace_checkpoint_io,
    silence_lightning,
    was_interrupted,
)
from sharedmlp.utils.files import file_sha256

_DEFAULT_TASK = ClassificationTask


class SharedMLPCLI(ExtensibleCLI):
    """Lightning's command line for a `BaseTask` on a `PointCloudDataModule`, both by class path.

    Without `--model CLASS_PATH` the task is a `ClassificationTask`.

    With `--ckpt_path FILE`, the value of a `model` argument is the one that was typed as
    `--model.NAME VALUE`, else the checkpoint's, else the config file's, else the default. So a
    checkpoint is rebuilt as it was trained whichever config file describes the data, and
    `--model.backend conv2d` does what it says.
    """

    model: BaseTask
    datamodule: PointCloudDataModule

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's own, without the arguments that are decided here."""
        # Of a checkpoint nothing but plain values is unpickled, whatever a config says.
        subcommands = {k: v | {"weights_only"} for k, v in LightningCLI.subcommands().items()}
        subcommands["test"] |= {"verbose"}
        subcommands["predict"] |= {"return_predictions"}
        return subcommands

    def add_subcommand_arguments(self, subcommand: str, parser: LightningArgumentParser) -> None:
        """Add the file of `predict`."""
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                help="The CSV file; predictions.csv in the folder of the run by default. If an "
                "interrupted prediction left FILE.part, it is continued.",
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoints, the test after a fit, and what the model learns from the data."""
        parser.set_defaults({"model": {"class_path": DEFAULT_CLASS_PATH}})
        # Two, because a ModelCheckpoint that monitors a metric writes its `save_last` only in
        # epochs that are among the best.
        for key, settings in {
            "best_checkpoint": {
                "filename": "best",
                "monitor": _DEFAULT_TASK.monitor,
                "mode": _DEFAULT_TASK.monitor_mode,
            },
            "last_checkpoint": {"filename": "last"},
        }.items():
            parser.add_lightning_class_args(ModelCheckpoint, key)
            common = {"enable_version_counter": False}
            parser.set_defaults({f"{key}.{k}": v for k, v in {**settings, **common}.items()})
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="End `fit` with a test of the best checkpoint.",
        )
        # Only for the tasks that take them.
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and remember which arguments of the model were typed."""
        assert isinstance(args, list)
        super().parse_arguments(parser, args)
        self._typed = TypedModelArguments.of(args)

    def merge_checkpoint(self) -> None:
        """Put the hyperparameters of the checkpoint below those that were typed."""
        merge_checkpoint(self, self._typed)

    def before_instantiate_classes(self) -> None:
        """Serve `sync_batchnorm`, monitor what the task says, and silence what matters to fit."""
        config = self.config[self.subcommand]
        arguments = config.model.get("init_args", {})
        if config.trainer.sync_batchnorm and "norm" in arguments:
            # Lightning's works on GPUs alone: two processes on a CPU fail, one ignores it.
            config.trainer.sync_batchnorm, arguments["norm"] = False, "sync_batch"
        best = config.best_checkpoint
        if (best.monitor, best.mode) == (_DEFAULT_TASK.monitor, _DEFAULT_TASK.monitor_mode):
            module, _, name = config.model.class_path.rpartition(".")
            task: type[BaseTask] = getattr(import_module(module), name)
            best.monitor, best.mode = task.monitor, task.monitor_mode
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")

    def instantiate_classes(self) -> None:
        """Instantiate, with the errors of the classes themselves."""
        with explain_errors():
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Remember whether anything is to be written at all, and write checkpoints in one step."""
        self._dry = bool(self.config[self.subcommand].trainer.fast_dev_run)
        replace_checkpoint_io(self.trainer, AtomicCheckpointIO())

    def before_fit(self) -> None:
        """Check that the splits are there that are used, up to a test at the end."""
        wanted: list[Split] = ["train"]
        if self.config.fit.test_after_fit:
            wanted.append("test")
        self.datamodule.check_splits(*wanted)

    def after_fit(self) -> None:
        """Test the best checkpoint if that was asked for, and print what was written."""
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        # None in a fast_dev_run, which writes no checkpoint and tests the network as it is.
        best, last = (None, None) if self._dry else (c.best_model_path for c in callbacks[:2])
        written: dict[str, Any] = {"best checkpoint": best, "last checkpoint": last}
        if self.config.fit.test_after_fit:
            # It would put the weights in training in place of the averaged ones that were chosen.
            remove_callbacks(self.trainer, WeightAveraging)
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=best,
                weights_only=True,
                verbose=False,
            )
            written |= self._report_test(best)
        self._print_paths(written)

    def fit(self, **kwargs: Any) -> None:
        """Train."""
        self.trainer.fit(**kwargs, weights_only=True)

    def validate(self, **kwargs: Any) -> None:
        """Validate a checkpoint."""
        self.trainer.validate(**kwargs, weights_only=True)

    def test(self, **kwargs: Any) -> None:
        """Test a checkpoint and print the result and what was written."""
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
        ckpt_path = named_weights(self.config.test)
        self._print_paths({"checkpoint": ckpt_path, **self._report_test(ckpt_path)})

    def predict(self, **kwargs: Any) -> None:
        """Write the answer of a checkpoint for each cloud of the test split, as it is known."""
        if not isinstance(self.model, ClassificationTask):
            raise DataError(
                "predict writes the probabilities of classes: expected a ClassificationTask, got "
                f"{type(self.model).__name__}; use trainer.predict in a script"
            )
        if self.trainer.world_size > 1:
            raise ValueError("predict writes one file from one process: add --trainer.devices 1")
        config = self.config.predict
        path = Path(config.output or self._log_dir() / "predictions.csv")
        source = _describe_source(config)
        with PredictionWriter(path, source, self.model.class_names) as writer:
            if not self._dry:
                add_callback(self.trainer, writer)
            try:
                self.trainer.predict(**kwargs, weights_only=True, return_predictions=False)
            except SystemExit:  # Lightning's answer to an interrupt
                if was_interrupted(self.trainer) and writer.table:
                    how = f"to continue, run the same command with --output {path}"
                    writer.table.exit_interrupted(how)
                raise
            if writer.table:
                writer.table.finish()
                self._print_paths({"checkpoint": named_weights(config), "predictions": path})

    def _report_test(self, ckpt_path: str | None) -> dict[str, Path]:
        return self.model.report_test(None if self._dry else self._log_dir(), ckpt_path)

    def _log_dir(self) -> Path:
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def _print_paths(self, written: dict[str, Any]) -> None:
        """Print where things are; in a fast_dev_run nothing was written."""
        history = self._log_dir() / "metrics.csv"
        if self._dry or not self.trainer.is_global_zero:
            return
        if history.is_file():
            written = {**written, "metrics": history}
        width = max(map(len, written))
        for name, path in written.items():
            print(f"{name:<{width}}  {path}")


def run(args: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        args: The arguments, with the command.
    """
    joined = distributed.is_initialized()
    # A config names no function that runs commands; jsonargparse has a list of those.
    set_parsing_settings(import_path_denylist=[])
    silence_lightning()
    SharedMLPCLI(
        BaseTask,
        PointCloudDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=AtomicSaveConfigCallback,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={
            "callbacks": [EpochLog(), StopOnSignal()],
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": ""},
            },
        },
        parser_kwargs={
            "prog": "sharedmlp",
            "description": "Train and test networks on point clouds. `--model.help` and "
            "`--data.help CLASS` list the arguments of the task and of the data.",
        },
        args=resolve_recipes(args),
    )
    if not joined and distributed.is_initialized():
        # Lightning leaves gloo's threads alone, and they may abort the process as it ends.
        distributed.destroy_process_group()


def _describe_source(config: Any) -> dict[str, Any]:
    """Return what predictions depend on: the checkpoint and the data, not how it is loaded."""
    data = config.data.as_dict()
    for name in ("batch_size", "num_workers"):
        data.get("init_args", {}).pop(name, None)
    return {"checkpoint": file_sha256(named_weights_file(config)), "data": data}
