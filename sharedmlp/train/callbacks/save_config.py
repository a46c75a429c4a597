"""The configuration of a run as a file that is complete or absent."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.cli import SaveConfigCallback

from sharedmlp.reports.classification import write_text
from sharedmlp.train.callbacks.run_folder import run_folder


class AtomicSaveConfigCallback(SaveConfigCallback):
    """Lightning's callback, which itself writes in place; needs `save_to_log_dir=False`."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ask for the folder in every process, because they communicate about it."""
        self._folder = run_folder(trainer)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write or replace the file, in the first process."""
        write_text(
            self._folder / self.config_filename, self.parser.dump(self.config, skip_none=False)
        )
