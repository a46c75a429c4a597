"""What `import sharedmlp` costs the one who wants a layer."""

import importlib.metadata
import subprocess
import sys


def test_importing_the_package_imports_torch_and_nothing_else():
    """Not even the parts of torch, such as its compiler, that `import torch` leaves out.

    Nor what the package imports for those who ask: to convert, and to fuse.
    """
    code = """
import sys, torch
before = set(sys.modules)
import sharedmlp
on_demand = {"sharedmlp.convert", "sharedmlp.fusion"}
print(*sorted(
    name for name in set(sys.modules) - before
    if not name.startswith("sharedmlp") or name in on_demand
))
sharedmlp.fuse
assert "sharedmlp.fusion" in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    new = [name for name in result.stdout.split() if not name.startswith("__editable__")]
    assert new == []


def test_dir_lists_what_is_imported_on_demand_and_the_version():
    import sharedmlp

    assert set(sharedmlp.__all__) | {"__version__"} <= set(dir(sharedmlp))
    assert all(hasattr(sharedmlp, name) for name in dir(sharedmlp))
    installed = importlib.metadata.version("sharedmlp")
    assert installed == sharedmlp.__version__
