"""What the switches of the trainer mean for the callbacks that the command line brings along."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ModelSummary, ProgressBar

from sharedmlp.train.callbacks.run_summary import RunSummary
from sharedmlp.train.lightning_internals import EpochProgressBar, ExtensibleCLI


class SwitchableCLI(ExtensibleCLI):
    """A command line whose own callbacks follow the switches of the trainer.

    Checkpoints are left out with `enable_checkpointing false`, the best one also if nothing is
    validated, and all of them with `barebones true`, together with the logger and the saved
    configuration. The progress bar and the summary are its own unless the user names others.
    """

    def configure_trainer(
        self, config: dict[str, Any], callbacks: list[Callback]
    ) -> tuple[dict[str, Any], list[Callback]]:
        """Return the arguments of the trainer and the callbacks to add."""
        barebones = bool(config.get("barebones"))
        if barebones:
            # Lightning refuses what was given, and a logger was given by every config file.
            config["logger"] = self.save_config_callback = None
        if barebones or config.get("enable_checkpointing") is False:
            callbacks = [c for c in callbacks if not isinstance(c, ModelCheckpoint)]
        elif config.get("limit_val_batches") == 0:
            callbacks = [c for c in callbacks if not _needs_validation(c)]
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        if not barebones:
            if config.get("enable_progress_bar") is not False and not _has(given, ProgressBar):
                callbacks = [*callbacks, EpochProgressBar()]
            if config.get("enable_model_summary") is not False:
                if not _has(given, ModelSummary):
                    callbacks = [*callbacks, RunSummary()]
                # It would only say that there is one already.
                config["enable_model_summary"] = False
        return config, callbacks

    def written_checkpoints(self) -> dict[str, str]:
        """Return the paths of the best and of the last checkpoint, as far as they were written."""
        config = self.config_init[self.subcommand]
        paths = {name: config[f"{name}_checkpoint"].best_model_path for name in ("best", "last")}
        return {f"{name} checkpoint": path for name, path in paths.items() if path}


def _has(callbacks: list[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _needs_validation(callback: Callback) -> bool:
    return isinstance(callback, ModelCheckpoint) and str(callback.monitor).startswith("val/")
