"""Checkpoints and configs made to run code: refused with a message, and nothing has run.

Files of data made for that are in `data/test_bad_intent.py`, checkpoints of others in
`models/test_foreign_files.py`.
"""

import contextlib
import pickle  # noqa: TID251 - to write what must not be read
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from sharedmlp.__main__ import main
from sharedmlp.cli.lightning import SharedMLPCLI
from tests.data.io.meshes import TETRAHEDRON
from tests.train.tiny import CLASSES, ArrayDataModule, make_task, make_trainer

DATA = "--data MeshTreeDataModule --data.root tree"
LIGHTNING = [f"{command} {DATA}" for command in ("fit", "validate", "test", "predict")]
# All four read it in one place: two of them are quick.
ON_DATA = [
    pytest.param(command, marks=[pytest.mark.slow] if command.startswith(("val", "test")) else [])
    for command in LIGHTNING
]
ON_FILES = ("predict a.off", "show a.off", "export --format safetensors")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sharedmlp"])
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a.off").write_text(TETRAHEDRON)
    return tmp_path


def refuse(arguments, capsys):
    """Returns what is said."""
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("command", [*ON_DATA, *ON_FILES])
def test_a_checkpoint_that_runs_code_does_not(inside, capsys, command):
    checkpoint = {
        "state_dict": {},
        "hyper_parameters": {"class_names": list(CLASSES)},
        "callbacks": Bomb(inside / "ran"),
    }
    torch.save(checkpoint, "zipped.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps(checkpoint))
    names = ["zipped.ckpt", "plain.ckpt"]
    if command in ON_FILES[:2]:  # these know it by its suffix
        Path("a.safetensors").write_bytes(Path("zipped.ckpt").read_bytes())
        names.append("a.safetensors")
    for name in names:
        said = refuse([*command.split(), "--ckpt_path", name], capsys)
        assert name in said
        assert "cannot be read as a checkpoint" in said or "is no safetensors file" in said
    assert not (inside / "ran").exists()


def test_a_checkpoint_that_names_a_function_does_not_call_it(inside):
    (inside / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nmake = print")
    trainer = make_trainer(max_epochs=1)
    trainer.fit(make_task(), ArrayDataModule())
    trainer.save_checkpoint("a.ckpt")
    checkpoint = torch.load("a.ckpt", weights_only=True)  # noqa: TID251 - plain values
    checkpoint["hyper_parameters"]["_instantiator"] = "evil.make"
    torch.save(checkpoint, "a.ckpt")
    for command in ON_FILES:  # whether they refuse it or read the rest
        with contextlib.suppress(SystemExit):
            main([*command.split(), "--ckpt_path", "a.ckpt"])
    assert not (inside / "ran").exists()


@pytest.mark.parametrize("command", ON_DATA)
def test_a_checkpoint_does_not_choose_the_code_that_runs(inside, capsys, command):
    (inside / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nTask = 1")
    values = {"class_names": list(CLASSES), "_class_path": "evil.Task"}
    checkpoint = {"state_dict": {}, "hyper_parameters": values, "pytorch-lightning_version": "2.6"}
    torch.save(checkpoint, "a.ckpt")
    assert "a checkpoint of a evil.Task" in refuse(
        [*command.split(), "--ckpt_path", "a.ckpt"], capsys
    )
    assert not (inside / "ran").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_lightning_is_told_to_unpickle_plain_values_alone(inside, command):
    """Also from an address, where its own default is to unpickle anything."""

    class Told(Exception):
        pass

    def tell(*args, **options):
        raise Told(options)

    cli: Any = SharedMLPCLI.__new__(SharedMLPCLI)
    cli.model = make_task()
    cli.trainer = SimpleNamespace(world_size=1, callbacks=[], **{command: tell})
    data = Namespace(class_path="D", init_args=Namespace(batch_size=1))
    cli.config = SimpleNamespace(
        predict=Namespace(output="p.csv", ckpt_path="a.off", data=data, rotations=1)
    )
    cli._dry = True
    cli._claim_folder = lambda fits=False: None
    with pytest.raises(Told) as told:
        getattr(cli, command)(model=cli.model, ckpt_path="http://localhost/a.ckpt")
    assert told.value.args[0]["weights_only"] is True


CONFIG = "data: {class_path: MeshTreeDataModule, init_args: {root: tree}}\n"
RUN = "{class_path: subprocess.Popen, init_args: {args: [touch, ran]}}"
CALL = "{class_path: LambdaCallback, init_args: {setup: %s}}"
CONFIGS = {
    "an object of Python's": "seed_everything: !!python/object/apply:os.system [touch ran]",
    "a callback": f"trainer: {{callbacks: [{RUN}]}}",
    "a logger": f"trainer: {{logger: {RUN}}}",
    "a strategy": f"trainer: {{strategy: {RUN}}}",
    "data": f"data: {RUN}",
    "the task": f"model: {RUN}",
    "the file of a task": "model: {class_path: ../evil.Task}",
    "the optimizer": f"model: {{optimizer: {RUN}}}",
    "an object to call": f"trainer: {{callbacks: [{CALL % RUN}]}}",
    "a function to call": f"trainer: {{callbacks: [{CALL % 'os.system'}]}}",
    "a file": "data: {class_path: ../evil.Data}",
    "a file above": "data: {class_path: ..evil.Data}",
    "checkpoints that run code": "weights_only: false",
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_makes_nothing_but_what_belongs_in_its_place(inside, capsys, case):
    (inside / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    added = CONFIGS[case]
    config = added if added.startswith("data") else CONFIG + added
    (inside / "a.yaml").write_text(config)
    assert "error: " in refuse(["fit", "--config", "a.yaml"], capsys)
    assert not (inside / "ran").exists()
