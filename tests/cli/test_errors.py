"""Every mistake on the command line is answered in one line, before anything is read or written."""

import warnings
from functools import wraps
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from sharedmlp.__main__ import main
from sharedmlp.train import ClassificationTask
from tests.environment import own_environment
from tests.train.tiny import write_tree

FILES = {
    "name.yaml": "model:\n  leraning_rate: 1\n",
    "trainer.yaml": "trainer:\n  max_epoch: 1\n",
    "group.yaml": "tranier:\n  max_epochs: 1\n",
    "broken.yaml": "trainer: [\n  max_epochs: 1\n",
    "text.yaml": "hello",
    "class.yaml": "model:\n  class_path: nowhere.Task\n",
    "callback.yaml": "trainer:\n  callbacks:\n  - class_path: EMAWeightAveragin\n",
    "decay.yaml": "trainer:\n  callbacks:\n  - class_path: EMAWeightAveraging\n"
    "    init_args: {decai: 0.3}\n",
    "value.yaml": "data:\n  class_path: ShapesDataModule\n  init_args: {num_points: many}\n",
    "tree.yaml": "trainer: {accelerator: cpu, max_epochs: 1, enable_progress_bar: false}\n"
    "data:\n  class_path: MeshTreeDataModule\n"
    "  init_args: {root: tree, pool_size: 16, num_points: 8, val_fraction: 0.5}\n",
}

slow = pytest.mark.slow
# What is typed after `fit --config quickstart`, and what the line has to say.
NAMES = [
    ("--model.leraning_rate 1", "--model.leraning_rate of Classif", "mean --model.learning_rate?"),
    ("--data.num_pionts 1", "--data.num_pionts of ShapesData", "mean --data.num_points?"),
    ("--trainer.max_epoch 1", "unknown option --trainer.max_epoch", "mean --trainer.max_epochs?"),
    ("--learning_rate 1", "unknown option --learning_rate", "mean --model.learning_rate?"),
    ("--trainer.logger.save_dri x", "of CSVLogger", "mean --trainer.logger.save_dir?"),
    ("--nonsense", "unknown option --nonsense", "--help"),
    ("nonsense", "unexpected argument 'nonsense'", ""),
    ("--model Clasification", "unknown class Clasification for --model", "ClassificationTask"),
    ("--data MeshTreDataModule", "unknown class MeshTre", "mean MeshTreeDataModule?"),
    ("--trainer.callbacks+=EarlyStoping", "unknown class EarlyStoping", "mean EarlyStopping?"),
    ("--model nowhere.Task", "unknown class nowhere.Task for --model", "No module named"),
    ("--config name.yaml", "model.leraning_rate of Class", "in name.yaml; did you mean model."),
    ("--config trainer.yaml", "trainer.max_epoch in trainer.yaml", "mean trainer.max_epochs?"),
    ("--config group.yaml", "tranier.max_epochs in group.yaml", "mean trainer.max_epochs?"),
    ("--config broken.yaml", "--config broken.yaml, line 3: no valid YAML", "expected ',' or ']'"),
    ("--config text.yaml", "--config text.yaml: expected settings (YAML)", "'hello'"),
    ("--config class.yaml", "unknown class nowhere.Task for model in class.yaml", "No module"),
    ("--config callback.yaml", "unknown class EMAWeightAveragin", "mean EMAWeightAveraging?"),
    ("--config decay.yaml", "trainer.callbacks.decai of EMA", "mean trainer.callbacks.decay?"),
    ("--config quickstrat", "no such file, nor a recipe", "mean quickstart?"),
    ("--config", "--config expects a value", ""),
    ("--model.learning_rate", "--model.learning_rate expects a value", ""),
]
VALUES = [
    ("--model.backend conv4d", "--model.backend expects linear, conv1d or conv2d", "conv4d"),
    ("--model.model pointnett", "unknown model 'pointnett'", "mean pointnet?"),
    ("--data.num_points abc", "--data.num_points expects int, got 'abc'", ""),
    ("--config value.yaml", "data.num_points in value.yaml expects int", "'many'"),
    ("--trainer.max_epochs x", "--trainer.max_epochs expects int or null, got 'x'", ""),
    ("--trainer.precision 17", "--trainer.precision expects", "16-mixed"),
    ("--data.test_votes 0", "test_votes is at least 1", "got 0"),
    ("--model.learning_rate -1", "learning_rate is at least 0, got -1", ""),
    ("--model.learning_rate .nan", "learning_rate is at least 0, got nan", ""),
    ("--model.label_smoothing 2", "label_smoothing is from 0 to 1", ""),
    ("--data.batch_size 0", "batch_size is at least 1, got 0", ""),
    ("--data.val_fraction 2", "val_fraction is from 0 to 1", ""),
    ("--trainer.devices 99", "--trainer.devices 99 starts as many processes", "cores"),
    ("--trainer.devices 0", "devices", ""),
    ("--trainer.limit_train_batches -1", "invalid value -1 for limit_train_batches", ""),
    ("--trainer.limit_train_batches 0", "--trainer.limit_train_batches 0 there is nothing", ""),
    ("--trainer.max_epochs 0", "with --trainer.max_epochs 0 there is nothing to fit", ""),
    ("--trainer.accumulate_grad_batches 0", "accumulate_grad_batches is at least 1", ""),
    ("--trainer.strategy foo", "invalid strategy name", ""),
    ("--best_checkpoint.mode foo", "`mode` can be min, max but got foo", ""),
    ("--ckpt_path nowhere.ckpt", "--ckpt_path nowhere.ckpt: no such file", ""),
    pytest.param(
        "--trainer.accelerator gpu",
        "--trainer.accelerator gpu: this machine has none",
        "",
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    ),
]
# One of each kind is tried in the quick tests.
QUICK = {
    *("--model.leraning_rate 1", "--trainer.max_epoch 1", "--data MeshTreDataModule"),
    *("--config name.yaml", "--config broken.yaml", "--config callback.yaml"),
    *("--model.backend conv4d", "--data.test_votes 0", "--trainer.max_epochs x"),
    *("--trainer.devices 99", "--trainer.max_epochs 0", "--config value.yaml"),
}


def chosen(cases, quick):
    """The cases, those beyond the quick ones marked as slow."""
    marked = [case if hasattr(case, "values") else pytest.param(*case) for case in cases]
    return [
        case if case.values[0] in quick else pytest.param(*case.values, marks=[slow, *case.marks])
        for case in marked
    ]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_environment(monkeypatch)
    for name, text in FILES.items():
        Path(name).write_text(text)
    return tmp_path


def expect_line(arguments, capsys):
    """Run a command that is wrong; return its exit status and the line that says so, its last."""
    with pytest.raises(SystemExit) as error:
        main(arguments)
    code, printed = error.value.code, capsys.readouterr()
    lines = printed.err.splitlines()
    if isinstance(code, str):  # what Python prints, and the status is 1
        lines, code = [*lines, *code.splitlines()], 1
    (line,) = [line for line in lines if line.startswith("sharedmlp: error: ")]
    assert line == lines[-1]
    for word in ("Traceback", "usage:", ".py"):
        assert not any(word in line for line in lines)
    return code, line


@pytest.mark.parametrize(("typed", "what", "advice"), chosen(NAMES + VALUES, QUICK))
def test_a_mistake_is_one_line_and_nothing_is_written(typed, what, advice, inside, capsys):
    before = sorted(inside.rglob("*"))
    code, line = expect_line(["fit", "--config", "quickstart", *typed.split()], capsys)
    assert code == 2
    assert what in line
    assert advice in line
    assert sorted(inside.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("fti", "did you mean fit?"),
        ("--verison", "did you mean --version?"),
        ("fit", "name a recipe or a file by --config"),
        ("fit --data MeshTreeDataModule", "MeshTreeDataModule needs --data.root"),
        ("export --ckpt_path a --formt onnx", "--format; see sharedmlp export --help"),
        ("export --ckpt_path a --format onx", "did you mean onnx?"),
        ("predict a.off --ckptpath b", "did you mean --ckpt_path?"),
        ("show a.off --pointt 3", "did you mean --point?"),
        ("prepare modelent10", "did you mean modelnet10?"),
        ("benchmark --network dgcn", "network is one of pointnet, dgcnn"),
        ("predict --config quickstart --rotations 0", "--rotations expects a number >0, got 0"),
        ("predict --ckpt_path modelnt40 a.off", "did you mean modelnet40?"),
        ("compare", "required: RUN; see sharedmlp compare --help"),
    ],
)
def test_every_command_answers_in_one_line(arguments, what, capsys):
    code, line = expect_line(arguments.split(), capsys)
    assert code == 2
    assert what in line


def test_more_points_than_a_file_keeps_is_said_before_files_are_sampled(inside, capsys):
    write_tree("tree", train=2, test=1)
    Path("runs").mkdir()
    before = sorted(inside.rglob("*"))
    code, line = expect_line(["fit", "--config", "tree.yaml", "--data.num_points", "17"], capsys)
    assert (code, "num_points from 1 to 16" in line) == (1, True)
    assert sorted(inside.rglob("*")) == before


def test_one_class_is_one_line(inside, capsys):
    for number in range(4):
        (inside / "tree" / "box").mkdir(parents=True, exist_ok=True)
        Path(f"tree/box/{number}.xyz").write_text("0 0 0\n1 0 0\n0 1 0\n0 0 1\n")
    code, line = expect_line(["fit", "--config", "tree.yaml"], capsys)
    assert (code, "there is one class alone (box)" in line) == (1, True)


def test_a_missing_logger_names_its_extra(monkeypatch, capsys):
    @wraps(TensorBoardLogger.__init__)  # with its arguments
    def fail(*args, **options):
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr(TensorBoardLogger, "__init__", fail)
    arguments = ["fit", "--config", "quickstart", "--trainer.logger", "TensorBoardLogger"]
    code, line = expect_line([*arguments, "--trainer.logger.save_dir", "a"], capsys)
    assert (code, "pip install 'sharedmlp[tensorboard]'" in line) == (1, True)


def test_a_training_resumes_with_its_own_optimizer(inside, capsys):
    write_tree("tree", train=3, test=1)
    quick = ["--config", "tree.yaml", "--model.model", "pointnet_vanilla"]
    saved = ["--last_checkpoint.dirpath", "run", "--best_checkpoint.dirpath", "run"]
    main(["fit", *quick, *saved, "--trainer.logger", "false"])
    capsys.readouterr()
    before = sorted(inside.rglob("*"))
    resumed = ["fit", *quick, "--ckpt_path", "run/last.ckpt", "--trainer.max_epochs", "2"]
    code, line = expect_line([*resumed, "--model.optimizer", "sgd"], capsys)
    assert code == 2
    assert "run/last.ckpt: the checkpoint's optimizer is not SGD" in line
    assert sorted(inside.rglob("*")) == before
    code, line = expect_line([*resumed, "--model.model", "pointnet"], capsys)
    assert code in (1, 2)


def test_what_lightning_refuses_while_it_runs_is_one_line(capsys):
    write_tree("tree", train=3, test=1)
    arguments = ["fit", "--config", "tree.yaml", "--trainer.val_check_interval", "999"]
    code, line = expect_line([*arguments, "--model.model", "pointnet_vanilla"], capsys)
    assert code == 2
    assert "`val_check_interval` (999) must be less than" in line


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    write_tree("tree", train=3, test=1)

    def fail(*args):
        raise AttributeError("a bug")

    monkeypatch.setattr(ClassificationTask, "configure_models", fail)
    with pytest.raises(AttributeError, match=r"^a bug$"):
        main(["fit", "--config", "tree.yaml"])


def test_a_warning_is_one_line_without_its_place_in_the_code(monkeypatch, capsys):
    def warn(args):
        warnings.warn("first line\n  second line", stacklevel=1)

    monkeypatch.setattr("sharedmlp.cli.export.run", warn)
    main(["export"])
    assert capsys.readouterr().err == "warning: first line second line\n"
