"""The command line: ``sharedmlp fit | validate | test | predict | prepare | export | show``."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import distributed

from sharedmlp.cli import export, predict, prepare, show
from sharedmlp.data import DataError
from sharedmlp.export import ExportError
from sharedmlp.reports.prediction_table import PredictionTableError, PredictionWriter
from sharedmlp.reports.test_report import report_test
from sharedmlp.train import (
    ClassificationTask,
    EpochLog,
    PointCloudDataModule,
    StopOnSignal,
    WholeCheckpointIO,
)
from sharedmlp.train.callbacks.save_config import SaveWholeConfig
from sharedmlp.utils.files import file_sha256

COMMANDS = {"prepare": prepare.run, "export": export.run, "predict": predict.run, "show": show.run}

# Lightning's remarks that a user can do nothing about, or that are wrong for clouds in memory.
_NOISE = (
    r".*LeafSpec.*",
    r".*does not have many workers.*",
    r".*is smaller than the logging interval.*",  # everything is logged once an epoch
    # Averaged weights are what a checkpoint's state_dict holds, and what is tested.
    r".*callbacks used to create the checkpoint need to be provided.*",
    r".*WeightAveraging callback, but loading a checkpoint outside the 'fit' stage.*",
    r".*LightningCLI's args parameter is intended to run from within Python.*",
)
# Each of these says that `predict` is about a data module, where it otherwise names files.
_LIGHTNING_OPTIONS = ("-c", "--config", "--data", "--model", "--trainer", "--print_config")


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("💡 Tip:")


class SharedMLPCLI(LightningCLI):
    """Lightning's command line for a ``ClassificationTask`` on a ``PointCloudDataModule``.

    Which value of a ``model`` argument counts, with ``--ckpt_path FILE``: one that was typed as
    ``--model.NAME VALUE`` first, then the checkpoint's, then the config file's, then the default.
    So a checkpoint is rebuilt as it was trained whichever config file describes the data, and
    ``--model.backend conv2d`` does what it says.
    """

    model: ClassificationTask
    datamodule: PointCloudDataModule

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own, without the arguments that are decided here."""
        # Of a checkpoint nothing but plain values is unpickled, whatever a config says.
        subcommands = {k: v | {"weights_only"} for k, v in LightningCLI.subcommands().items()}
        subcommands["test"] |= {"verbose"}
        subcommands["predict"] |= {"return_predictions"}
        return subcommands

    def _prepare_subcommand_parser(
        self,
        klass: type,
        subcommand: str,
        **kwargs: Any,
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str | None,
                help="The CSV file; predictions.csv in the folder of the run by default. Where "
                "an interrupted prediction left FILE.part, it goes on there.",
            )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the checkpoints, the test after a fit, and what the model learns from the data."""
        # Two, because a ModelCheckpoint that monitors a metric writes its `save_last` only in
        # epochs that are among the best.
        for key, settings in {
            "best_checkpoint": {
                "filename": "best",
                "monitor": "val/overall_accuracy",
                "mode": "max",
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
        for name in ("class_names", "in_channels"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, and remembers which arguments of the model were typed."""
        super().parse_arguments(parser, args)
        given = sys.argv[1:] if args is None else args
        typed = given if isinstance(given, list) else []
        options = [arg.split("=")[0] for arg in typed if arg.startswith("--model")]
        self._typed = [option[2:] for option in options]

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        ckpt_path = config.get("ckpt_path")
        if subcommand != "fit" and not (ckpt_path and Path(ckpt_path).is_file()):
            self.parser.error(
                f"`{subcommand}` needs --ckpt_path FILE, such as "
                "runs/quickstart/version_0/checkpoints/best.ckpt, got "
                f"{ckpt_path!r}, which is no file"
            )
        if ckpt_path and "model" in self._typed:
            self.parser.error("with --ckpt_path, type single values as --model.NAME VALUE")
        typed = {key: config[key] for key in self._typed if key in config}
        try:
            super()._parse_ckpt_path()
        except Exception as error:  # of many types, and the file is what is wrong in all of them
            self.parser.error(
                f"{ckpt_path} cannot be read as a checkpoint of plain values, such as `sharedmlp "
                f"fit` writes ({type(error).__name__})"
            )
        for key, value in typed.items():
            self.config[subcommand].update(value, key)

    def before_instantiate_classes(self) -> None:
        """Serves ``sync_batchnorm``, and silences what is only worth saying in a fit."""
        config = self.config[self.subcommand]
        if config.trainer.sync_batchnorm:
            # Lightning's works on GPUs alone: two processes on a CPU fail, one ignores it.
            config.trainer.sync_batchnorm, config.model.norm = False, "sync_batch"
        if self.subcommand != "fit":
            warnings.filterwarnings("ignore", ".*The dirpath has changed from.*")

    def after_instantiate_classes(self) -> None:
        """Remembers whether anything is to be written at all; checkpoints are to be so whole."""
        self._dry = bool(self.config[self.subcommand].trainer.fast_dev_run)
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def after_fit(self) -> None:
        """Tests the best checkpoint where that was asked for, and says what was written."""
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        # None in a fast_dev_run, which writes no checkpoint and tests the network as it is.
        best, last = (None, None) if self._dry else (c.best_model_path for c in callbacks[:2])
        written: dict[str, Any] = {"best checkpoint": best, "last checkpoint": last}
        if self.config.fit.test_after_fit:
            # It would put the weights in training in place of the averaged ones that were chosen.
            trainer: Any = self.trainer
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]
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
        """Trains."""
        self.trainer.fit(**kwargs, weights_only=True)

    def validate(self, **kwargs: Any) -> None:
        """Validates a checkpoint."""
        self.trainer.validate(**kwargs, weights_only=True)

    def test(self, **kwargs: Any) -> None:
        """Tests a checkpoint and says what came out and what was written."""
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
        ckpt_path = self.config.test.ckpt_path
        self._print_paths({"checkpoint": ckpt_path, **self._report_test(ckpt_path)})

    def predict(self, **kwargs: Any) -> None:
        """Writes what a checkpoint says of each cloud of the test split, as it says it."""
        if self.trainer.world_size > 1:
            raise ValueError("predict writes one file from one process: add --trainer.devices 1")
        trainer: Any = self.trainer
        config = self.config.predict
        path = Path(config.output or self._log_dir() / "predictions.csv")
        with PredictionWriter(path, _source_of(config)) as writer:
            if not self._dry:
                trainer.callbacks.append(writer)
            try:
                trainer.predict(**kwargs, weights_only=True, return_predictions=False)
            except SystemExit:  # Lightning's answer to an interrupt
                if trainer.interrupted and writer.table:
                    how = f"the same command with --output {path} goes on"
                    writer.table.exit_interrupted(how)
                raise
            if writer.table:
                writer.table.finish()
                self._print_paths({"checkpoint": config.ckpt_path, "predictions": path})

    def _report_test(self, ckpt_path: str | None) -> dict[str, Path]:
        log_dir = None if self._dry else self._log_dir()
        return report_test(self.model, self.datamodule, log_dir, ckpt_path)

    def _log_dir(self) -> Path:
        return Path(self.trainer.log_dir or self.trainer.default_root_dir)

    def _print_paths(self, written: dict[str, Any]) -> None:
        """Prints where things are; in a fast_dev_run there is nothing."""
        history = self._log_dir() / "metrics.csv"
        if self._dry or not self.trainer.is_global_zero:
            return
        if history.is_file():
            written = {**written, "metrics": history}
        width = max(map(len, written))
        for name, path in written.items():
            print(f"{name:<{width}}  {path}")


def main(args: list[str] | None = None) -> None:
    """Runs the command line.

    Args:
        args: Arguments; those of the process where None.
    """
    given = sys.argv[1:] if args is None else args
    try:
        if given and given[0] in COMMANDS and not _is_on_data(given):
            COMMANDS[given[0]](given[1:])
        else:
            _run_lightning(args)
    except (
        OSError,
        FloatingPointError,
        DataError,
        ExportError,
        PredictionTableError,
    ) as error:
        # What the user named is not there or not usable, a disk is full, a training has diverged:
        # the message is enough.
        sys.exit(f"sharedmlp: error: {error}")
    except ImportError as error:
        if "sharedmlp[" not in str(error):  # else the message names the extra to install
            raise
        sys.exit(f"sharedmlp: error: {error}")


def _source_of(config: Any) -> dict[str, Any]:
    """Returns what predictions depend on: the checkpoint and the data, not how it is loaded."""
    data = config.data.as_dict()
    for name in ("batch_size", "num_workers"):
        data.get("init_args", {}).pop(name, None)
    return {"checkpoint": file_sha256(config.ckpt_path), "data": data}


def _is_on_data(args: list[str]) -> bool:
    return args[0] == "predict" and any(arg.startswith(_LIGHTNING_OPTIONS) for arg in args)


def _run_lightning(args: list[str] | None) -> None:
    joined = distributed.is_initialized()
    # A config names no function that runs commands; jsonargparse has a list of those.
    set_parsing_settings(import_path_denylist=[])
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    SharedMLPCLI(
        ClassificationTask,
        PointCloudDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=SaveWholeConfig,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={
            "callbacks": [EpochLog(), StopOnSignal()],
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": ""},
            },
        },
        parser_kwargs={
            "description": "Train and test point cloud classifiers. `sharedmlp prepare ROOT` "
            "checks and samples a tree of meshes, `sharedmlp export` writes a network for other "
            "programs, `sharedmlp predict --ckpt_path FILE MESH...` names what is in files, and "
            "`sharedmlp show` draws what the network looks at."
        },
        args=args,
    )
    if not joined and distributed.is_initialized():
        # Lightning leaves gloo's threads alone, and they may abort the process as it ends.
        distributed.destroy_process_group()
