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
    link_categories,
    merge_checkpoint,
)
from sharedmlp.cli.constructor_errors import constructor_errors, lightning_errors
from sharedmlp.cli.jsonargparse_internals import OneLineParser
from sharedmlp.cli.predict_split import add_predict_arguments, predict_test_split
from sharedmlp.cli.recipes import resolve_recipes
from sharedmlp.cli.run_checks import check_run
from sharedmlp.cli.run_folder import (
    DEFAULT_ROOT,
    claim_run_folder,
    list_fit_files,
    place_tracking_stores,
    print_paths,
    report_test,
    write_validation,
)
from sharedmlp.cli.starting_weights import named_weights
from sharedmlp.cli.switches import SwitchableCLI
from sharedmlp.cli.typed_arguments import TypedModelArguments
from sharedmlp.train import (
    AtomicCheckpointIO,
    BaseTask,
    ClassificationTask,
    EpochLog,
    PointCloudDataModule,
    StopOnSignal,
)
from sharedmlp.train.calibration import describe_temperature
from sharedmlp.train.callbacks.learning_curves import LearningCurves
from sharedmlp.train.callbacks.run_folder import RunFolder, run_folder
from sharedmlp.train.callbacks.save_config import AtomicSaveConfigCallback
from sharedmlp.train.datamodules.base import Split
from sharedmlp.train.lightning_internals import (
    remove_callbacks,
    replace_checkpoint_io,
    silence_lightning,
)

_DEFAULT_TASK = ClassificationTask


class SharedMLPCLI(SwitchableCLI):
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
        """Add the arguments of `predict`."""
        if subcommand == "predict":
            add_predict_arguments(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoints, the test after a fit, and what the model learns from the data."""
        parser.set_defaults({"model": {"class_path": DEFAULT_CLASS_PATH}})
        # Two, because a ModelCheckpoint that monitors a metric writes its `save_last` only in
        # epochs that are among the best.
        checkpoints: dict[str, dict[str, Any]] = {
            "best_checkpoint": {
                "filename": "best",
                "monitor": _DEFAULT_TASK.monitor,
                "mode": _DEFAULT_TASK.monitor_mode,
            },
            # Else it waits for a validation, which not every epoch has.
            "last_checkpoint": {"filename": "last", "save_on_train_epoch_end": True},
        }
        for key, settings in checkpoints.items():
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
        link_categories(parser)

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
        place_tracking_stores(config.trainer)
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
        """Make the data, the task and the trainer; what they say of their arguments is one line."""
        with constructor_errors():
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        """Check the run, remember whether it is to write, and write checkpoints in one step."""
        check_run(str(self.subcommand), self.trainer, self.model, self.config[self.subcommand])
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
        written: dict[str, Any] = {**self.written_checkpoints()}
        # The last one if nothing was validated; the network as it is if nothing was written.
        tested = next(iter(written.values()), None)
        if tested and self.trainer.is_global_zero:
            written |= describe_temperature(tested)
        if self.config.fit.test_after_fit:
            # It would put the weights in training in place of the averaged ones that were chosen.
            remove_callbacks(self.trainer, WeightAveraging)
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=tested,
                weights_only=True,
                verbose=False,
            )
            written |= report_test(self.trainer, self.model, tested)
        print_paths(self.trainer, {**written, **list_fit_files(self.trainer)})

    def fit(self, **kwargs: Any) -> None:
        """Train."""
        self._claim_folder(fits=True)
        self.trainer.fit(**kwargs, weights_only=True)

    def validate(self, **kwargs: Any) -> None:
        """Validate a checkpoint."""
        self._claim_folder()
        self.trainer.validate(**kwargs, weights_only=True)
        ckpt_path = named_weights(self.config.validate)
        written = write_validation(self.trainer, ckpt_path)
        print_paths(self.trainer, {"checkpoint": ckpt_path, **written})

    def test(self, **kwargs: Any) -> None:
        """Test a checkpoint and print the result and what was written."""
        self._claim_folder()
        self.trainer.test(**kwargs, weights_only=True, verbose=False)
        ckpt_path = named_weights(self.config.test)
        written = report_test(self.trainer, self.model, ckpt_path)
        print_paths(self.trainer, {"checkpoint": ckpt_path, **written})

    def predict(self, **kwargs: Any) -> None:
        """Write the answer of a checkpoint for each cloud of the test split, as it is known."""
        config = self.config.predict
        self._claim_folder()
        path = Path(config.output or run_folder(self.trainer) / "predictions.csv")
        options = {"config": config, "path": path, "dry": self._dry, **kwargs}
        print_paths(self.trainer, predict_test_split(self.trainer, **options))

    def _claim_folder(self, fits: bool = False) -> None:
        config = self.config[self.subcommand]
        claim_run_folder(self.trainer, config.trainer, config.ckpt_path, fits=fits)


def run(args: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        args: The arguments, with the command.
    """
    joined = distributed.is_initialized()
    # A config names no function that runs commands; jsonargparse has a list of those.
    set_parsing_settings(import_path_denylist=[])
    silence_lightning()
    with lightning_errors():
        _run(args)
    if not joined and distributed.is_initialized():
        # Lightning leaves gloo's threads alone, and they may abort the process as it ends.
        distributed.destroy_process_group()


def _run(args: Sequence[str]) -> None:
    every = SharedMLPCLI.subcommands()

    class NamedCommandCLI(SharedMLPCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            # A parser takes a tenth of a second to build: those of other commands are left out.
            return {k: v for k, v in every.items() if k == args[0]} or every

    NamedCommandCLI(
        BaseTask,
        PointCloudDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_class=OneLineParser,
        save_config_callback=AtomicSaveConfigCallback,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={
            "callbacks": [RunFolder(), EpochLog(), StopOnSignal(), LearningCurves()],
            "default_root_dir": DEFAULT_ROOT,
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
