"""Rows that are written as they come, and what becomes of them after an interruption."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sharedmlp.__main__ import main
from sharedmlp.data import read_cloud
from sharedmlp.reports.prediction_table import PredictionTable, answer_cells, answer_columns
from sharedmlp.train import ClassificationTask
from tests.train.tiny import ArrayDataModule, make_task, make_trainer, write_hdf5

COLUMNS = ["file", "prediction", "p(box)", "p(ball)"]
NAMES: list[str | Path] = ["a, b.off", Path("new\nline.off"), os.fsdecode(b"\xff.off"), "d.off"]
SOURCE = {"checkpoint": "1f", "seed": 0, "up_axis": None}
ANSWERS = [["box", "0.75", "0.25"], ["ball", "0", "1"], "c: bad", ["box", "1", "0"]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "p.csv"


def table(path, names=NAMES, source=SOURCE):
    return PredictionTable(path, COLUMNS, names, source)


def read(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def check(path):
    """The one result of all ways to get there."""
    rows = zip(NAMES, ANSWERS, strict=True)
    kept = [[str(name), *cells] for name, cells in rows if isinstance(cells, list)]
    assert read(path) == [COLUMNS, *kept]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_rows_become_a_table_when_all_are_there(path):
    rows = table(path)
    for answer in ANSWERS:
        assert not path.exists()
        rows.append(answer)
    assert rows.finish() == ["c: bad"]
    check(path)


@pytest.mark.parametrize("cut", range(5))
def test_an_interrupted_table_goes_on_behind_its_last_whole_row(path, cut):
    """Cut at every byte of the last line, and behind it."""
    first = table(path)
    for answer in ANSWERS[:cut]:
        first.append(answer)
    first.close()
    assert first.part.exists() == (cut > 0)
    content = first.part.read_bytes() if cut else b""
    ends = [n for n, byte in enumerate(content, 1) if byte == ord("\n")]
    for length in range(ends[-2] if cut else 0, len(content) + 1):
        first.part.write_bytes(content[:length])
        second = table(path)
        assert second.done == (cut if length == len(content) else cut - 1)
        for answer in ANSWERS[second.done :]:
            second.append(answer)
        assert second.finish() == ["c: bad"]
        check(path)


def test_a_table_that_was_whole_but_not_in_its_place_is_put_there(path):
    path.parent.mkdir()
    path.write_text("of another day")
    first = table(path)
    for answer in ANSWERS:
        first.append(answer)
    first.close()
    assert path.read_text() == "of another day"
    assert table(path).finish() == ["c: bad"]
    check(path)


def test_what_was_killed_before_its_first_row_binds_nobody(path):
    first = table(path, source={**SOURCE, "seed": 1})
    first._file.close()  # as a kill does
    second = table(path)
    second.append(ANSWERS[0])
    second.close()
    assert table(path).done == 1


def test_without_any_cells_there_is_no_table(path):
    rows = table(path, names=["a"])
    rows.append("bad")
    assert rows.finish() == ["bad"]
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("names", "source", "message"),
    [
        (NAMES, {**SOURCE, "seed": 1}, "another seed"),
        (NAMES, {"checkpoint": "2f", "seed": 1, "up_axis": "y"}, "checkpoint, another seed, anoth"),
        (["b", *NAMES[1:]], SOURCE, r"row 1 is a, b\.off where b is expected"),
        (["new", *NAMES], SOURCE, r"row 1 is a, b\.off where new is expected"),
        (NAMES[:1], SOURCE, r"row 2 is .* where nothing is expected"),
    ],
)
def test_rows_of_something_else_are_not_gone_on_with(path, names, source, message):
    first = table(path)
    for answer in ANSWERS[:2]:
        first.append(answer)
    first.close()
    before = first.part.read_bytes()
    with pytest.raises(ValueError, match=f"(?s){message}.*delete it to start again"):
        table(path, names, source)
    assert first.part.read_bytes() == before
    with pytest.raises(ValueError, match="another columns"):
        PredictionTable(path, [*COLUMNS, "p(c)"], NAMES, SOURCE)
    # A file more behind those that were done does no harm.
    assert table(path, [*NAMES, "new"]).done == 2


def test_damaged_rows_are_not_gone_on_with(path):
    first = table(path)
    for answer in ANSWERS:
        first.append(answer)
    first.close()
    lines = first.part.read_bytes().splitlines(keepends=True)
    for damaged, message in (([*lines[:1], b"\0" * 40 + b"\n"], "damaged"), (lines[1:], "damaged")):
        first.part.write_bytes(b"".join(damaged))
        with pytest.raises(ValueError, match=message):
            table(path)
    # Another process was at it: not what this one has written.
    first.part.unlink()
    second = table(path)
    second.append(ANSWERS[0])
    with second.part.open("ab") as file:
        file.write(lines[1])
    with pytest.raises(ValueError, match="row 2 is a, b"):
        second.finish()
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl there")
def test_two_processes_do_not_write_one_table(path):
    first = table(path)
    with pytest.raises(ValueError, match=r"another process is writing .*p\.csv\.part"):
        table(path)
    first.append(ANSWERS[0])
    first.close()
    assert table(path).done == 1


def test_the_cells_of_an_answer():
    assert answer_columns(["box", "ball"]) == COLUMNS[1:]
    assert answer_cells(torch.tensor([0.25, 0.75]), ["box", "ball"]) == [
        "ball",
        "0.250000",
        "0.750000",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    trainer = make_trainer(max_epochs=1)
    trainer.fit(make_task(), ArrayDataModule(up_axis="z"))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def inside(trained, tmp_path, monkeypatch):
    """Forty files of points, two of them bad."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sharedmlp"])
    monkeypatch.setattr("sharedmlp.inference.predict._BATCH_SIZE", 4)
    (tmp_path / "clouds").mkdir()
    points = np.random.default_rng(0).normal(size=(40, 20, 3))
    for number, cloud in enumerate(points):
        np.save(tmp_path / "clouds" / f"{number:02d}.npy", cloud)
    for number in (3, 30):
        (tmp_path / "clouds" / f"{number:02d}.npy").write_text("bad")
    return tmp_path


def predict(trained, *arguments):
    with pytest.raises(SystemExit) as error:
        main(["predict", "--ckpt_path", str(trained), "clouds", *arguments])
    return error.value.code


def interrupt_at(monkeypatch, name):
    def read(path, *args, **options):
        if Path(path).name == name:
            raise KeyboardInterrupt
        return read_cloud(path, *args, **options)

    monkeypatch.setattr("sharedmlp.inference.predict.read_cloud", read)


def test_files_are_gone_on_with_after_an_interrupt(inside, trained, monkeypatch, capsys):
    expected = predict(trained, "--output", "whole.csv")
    assert expected.startswith("2 of 40 files could not be read")
    whole = capsys.readouterr().out.splitlines()[:-1]
    lines = []
    for name, done in (("10.npy", 8), ("33.npy", 32)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, name)
            assert predict(trained, "--output", "p.csv") == 130
        printed = capsys.readouterr()
        lines += printed.out.splitlines()
        assert (
            f"{done} of 40 rows are in p.csv.part: to continue, run the same command" in printed.err
        )
        assert not Path("p.csv").exists()
    assert predict(trained, "--output", "p.csv") == expected
    printed = capsys.readouterr()
    assert "32 of 40 rows are there already: going on" in printed.err
    assert lines + printed.out.splitlines()[:-1] == whole
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert not Path("p.csv.part").exists()


def test_an_interrupt_without_output_says_what_would_help(inside, trained, monkeypatch, capsys):
    interrupt_at(monkeypatch, "10.npy")
    assert predict(trained) == 130
    assert "with --output" in capsys.readouterr().err


def test_other_files_or_another_seed_do_not_go_on(inside, trained, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, "10.npy")
        predict(trained, "--output", "p.csv")
    capsys.readouterr()
    assert predict(trained, "--output", "p.csv", "--seed", "1") == 2
    assert "another seed" in capsys.readouterr().err
    np.save("clouds/00a.npy", np.ones((20, 3)))
    assert predict(trained, "--output", "p.csv") == 2
    assert "row 2 is clouds/01.npy where clouds/00a.npy is expected" in capsys.readouterr().err


def data_arguments(trained, root):
    arguments = ["predict", "--data", "HDF5DataModule", "--data.root", str(root)]
    arguments += ["--data.num_points", "16", "--data.batch_size", "4", "--ckpt_path", str(trained)]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    return [*arguments, "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]


def test_a_data_set_is_gone_on_with_after_an_interrupt(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sharedmlp"])
    arguments = data_arguments(trained, write_hdf5(tmp_path / "set", test=(7, 7, 7), pool_size=24))
    main([*arguments, "--output", "whole.csv"])
    step, seen = ClassificationTask.predict_step, []

    def interrupted(task, batch, batch_idx):
        if batch_idx == 2:
            raise KeyboardInterrupt
        return step(task, batch, batch_idx)

    def counted(task, batch, batch_idx):
        seen.extend(batch["index"].tolist())
        return step(task, batch, batch_idx)

    monkeypatch.setattr(ClassificationTask, "predict_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as error:
            main([*arguments, "--output", "p.csv"])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from there on
    assert error.value.code == 130
    assert (
        "8 of 21 rows are in p.csv.part: to continue, run the same command with --output p.csv"
        in (capsys.readouterr().err)
    )
    monkeypatch.setattr(ClassificationTask, "predict_step", counted)
    main([*arguments, "--output", "p.csv", "--data.batch_size", "5"])
    assert seen == list(range(8, 21))
    # The last digit depends on what is in a batch.
    for row, expected in zip(read(Path("p.csv")), read(Path("whole.csv")), strict=True):
        assert row[:3] == expected[:3]
        if row[0] != "cloud":
            assert [*map(float, row[3:])] == pytest.approx([*map(float, expected[3:])], abs=2e-6)
    assert len(read(Path("p.csv"))) == 22
    assert not Path("p.csv.part").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_killed_again_and_again_every_row_comes_once(inside, trained):
    for number in range(40, 1500):
        os.link("clouds/00.npy", f"clouds/{number:04d}.npy")
    # What runs in the background of a shell may have been told to ignore interrupts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from sharedmlp.__main__ import main; main()"
    command = [sys.executable, "-c", code, "predict", "--ckpt_path", str(trained), "clouds"]
    whole = subprocess.run([*command, "--output", "whole.csv"], capture_output=True, check=False)
    assert whole.returncode == 1  # two files are bad
    command += ["--output", "p.csv"]
    part, wanted, codes = Path("p.csv.part"), 10_000, []
    for kill in [signal.SIGKILL, signal.SIGINT] * 2:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while not (part.exists() and part.stat().st_size > wanted):
                time.sleep(0.001)
                assert run.poll() is None
            run.send_signal(kill)
            codes.append(run.wait())
        wanted = part.stat().st_size + 10_000
        assert not Path("p.csv").exists()
    assert codes == [-signal.SIGKILL, 130] * 2
    last = subprocess.run(command, capture_output=True, check=False)
    assert last.returncode == 1
    assert last.stderr.splitlines()[-3:] == whole.stderr.splitlines()[-3:]
    assert Path("p.csv").read_bytes() == Path("whole.csv").read_bytes()
