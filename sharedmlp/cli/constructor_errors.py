"""What the data, the task, the trainer and Lightning say of wrong arguments, as errors of usage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException

from sharedmlp.cli.errors import UsageError, one_line
from sharedmlp.cli.jsonargparse_internals import root_cause
from sharedmlp.data import DataError

# Lightning's own advice for what is an extra of this package.
_EXTRAS = {"tensorboard": "tensorboard"}


@contextmanager
def constructor_errors() -> Iterator[None]:
    """Raise what a constructor says of its arguments as an error of usage.

    Raises:
        UsageError: If it is about an argument.
        ImportError: If an optional package is missing; the message says how to install it.
    """
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, ModuleNotFoundError):
            raise _explain_missing(cause) from error
        if isinstance(cause, ValueError) and not isinstance(cause, DataError):
            raise UsageError(one_line(cause)) from error
        if cause is error:
            raise
        raise cause from None


@contextmanager
def lightning_errors() -> Iterator[None]:
    """Raise what Lightning itself refuses as an error of usage.

    Raises:
        UsageError: If Lightning raised the error, with its text.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UsageError(_explain_misconfiguration(one_line(error))) from error
    except (ValueError, TypeError, RuntimeError) as error:
        if "Error(s) in loading state_dict" in str(error):
            raise DataError(_explain_state_dict(error)) from error
        if _is_raised_by_lightning(error):
            raise UsageError(one_line(error)) from error
        raise


def _is_raised_by_lightning(error: BaseException) -> bool:
    """Return whether the statement that raised an error is one of Lightning's."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    folder = Path(pl.__file__).parent
    path = Path(traceback.tb_frame.f_code.co_filename)
    return path.is_relative_to(folder) or path.is_relative_to(folder.parent / "lightning_fabric")


def _explain_misconfiguration(text: str) -> str:
    if text.startswith("No supported gpu backend found"):
        return "--trainer.accelerator gpu: this machine has none: leave it out, or take cpu"
    return text


def _explain_missing(error: ModuleNotFoundError) -> ImportError:
    text = one_line(error)
    if "sharedmlp[" in text:
        return error
    for module, extra in _EXTRAS.items():
        if module in text:
            return ImportError(f"the logger needs {module}: pip install 'sharedmlp[{extra}]'")
    named = f"; it needs: pip install {error.name}" if error.name and "pip " not in text else ""
    return ImportError(text + named)


def _explain_state_dict(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), "")
    return (
        "the weights of the checkpoint are those of another network than the options of --model "
        f"describe: leave those out that differ from its training ({first[:120]})"
    )
