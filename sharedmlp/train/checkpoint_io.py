"""Checkpoints that are complete or absent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from sharedmlp.utils.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's way to write checkpoints, made safe against kills, full disks and power cuts.

    Lightning itself writes a file in the system's temporary folder and moves it. If that is on
    another file system, the move is a copy onto the previous checkpoint, and an interrupted one
    leaves neither; and nothing is synced to disk.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint, or replace it in one step.

        Raises:
            OSError: If it cannot be written; the previous one is still there.
        """
        if "://" in str(path):  # no local file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            atomic_write(Path(path), content.getvalue())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}; what was there before is still complete: free the disk and "
                "resume from the last checkpoint (--ckpt_path)",
            ) from error
