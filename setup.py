"""What pyproject.toml cannot say: `configs/` is `sharedmlp/configs/` in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sharedmlp*"]), "sharedmlp.configs"],
    package_dir={"sharedmlp.configs": "configs"},
)
