import sys

import pytest

from sharedmlp.utils.optional_imports import require_modules


def test_installed_modules_are_imported_and_nothing_is_said():
    require_modules("json", "xml.dom", extra="x", purpose="This")
    assert "xml.dom" in sys.modules


@pytest.mark.parametrize(
    ("modules", "listed"),
    [
        (["h5py"], "h5py"),
        (["json", "no_such.part"], "json and no_such"),
        (["json", "no_such", "os.path"], "json, no_such and os"),
    ],
)
def test_a_missing_one_is_an_error_that_says_what_to_install(monkeypatch, modules, listed):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError) as error:
        require_modules(*modules, extra="hdf5", purpose="Reading HDF5")
    assert str(error.value) == f"Reading HDF5 needs {listed}: pip install 'sharedmlp[hdf5]'"
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
