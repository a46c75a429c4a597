#!/usr/bin/env bash
# Runs the tests with the lowest versions that pyproject.toml allows, or with those given:
#
#     scripts/lowest_versions.sh                    # every floor at once
#     scripts/lowest_versions.sh torch==2.7.1       # this one moved, the others at their floors
#
# An old torch comes with its CUDA libraries, about 3 GB of downloads: so .ci/run does not do this.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q packaging
"$work/venv/bin/python" - "$@" > "$work/floors.txt" <<'PYTHON'
"""Prints name==floor for each requirement that is installed here; arguments replace theirs."""
import pathlib
import sys
import tomllib

from packaging.requirements import Requirement

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
given = {Requirement(text).name: text for text in sys.argv[1:]}
lines = {}
wanted = [name for name in extras if name != "benchmark"]
for text in [*project["dependencies"], *(t for name in wanted for t in extras[name])]:
    requirement = Requirement(text)
    floors = [spec.version for spec in requirement.specifier if spec.operator == ">="]
    if requirement.name != "sharedmlp" and floors:
        lines[requirement.name] = f"{requirement.name}=={floors[0]}"
print("\n".join({**lines, **given}.values()))
PYTHON
cat "$work/floors.txt"
git clone -q . "$work/clone"
cd "$work/clone"
"$work/venv/bin/pip" install -q --no-cache-dir -c "$work/floors.txt" -e '.[dev]'
"$work/venv/bin/python" -m pytest
