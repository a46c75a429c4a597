"""Packages that only some functions need and only some installations have."""

from importlib import import_module


def require_modules(*modules: str, extra: str, purpose: str) -> None:
    """Import modules of optional packages, or say how to install them.

    Called before the `import` statements that need the modules, so that those keep their types.

    Args:
        *modules: Names of the modules, such as "h5py" or "safetensors.torch".
        extra: The extra of this package that installs all of them.
        purpose: What needs them, as the subject of the message: "Reading HDF5".

    Raises:
        ImportError: If one of them is missing; the message names the packages and the extra.
    """
    try:
        for module in modules:
            import_module(module)
    except ImportError as error:
        packages = [module.partition(".")[0] for module in modules]
        listed = " and ".join(
            [", ".join(packages[:-1]), packages[-1]] if packages[1:] else packages
        )
        raise ImportError(f"{purpose} needs {listed}: pip install 'sharedmlp[{extra}]'") from error
