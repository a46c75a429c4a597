"""metrics.csv: one row an epoch."""

import csv
import math

import pytest

from sharedmlp.train.epoch_table import EpochTable, read_rows


@pytest.fixture
def table(tmp_path):
    return EpochTable(tmp_path / "run" / "metrics.csv")


def read(table):
    with table.path.open(newline="") as file:
        return list(csv.DictReader(file))


def log_epoch(table, epoch, loss):
    """As Lightning logs an epoch: validation first, and the learning rate before it."""
    table.log_metrics({"lr": 0.5}, step=3 * epoch)
    table.log_metrics({"val/loss": loss, "epoch": epoch}, step=3 * epoch + 2)
    table.save()
    table.log_metrics({"train/loss": loss / 2, "epoch": epoch}, step=3 * epoch + 2)
    table.save()


def test_parts_of_an_epoch_are_one_row(table):
    log_epoch(table, 0, 1.0)
    log_epoch(table, 1, 0.25)
    names = ["epoch", "step", "lr", "train/loss", "val/loss"]
    rows = [["0", "2", "0.5", "0.5", "1"], ["1", "5", "0.5", "0.125", "0.25"]]
    assert [list(row) for row in read(table)] == [names] * 2
    assert [list(row.values()) for row in read(table)] == rows
    assert read_rows(table.path) == table.rows


def test_a_later_value_of_an_epoch_counts_and_a_missing_one_is_an_empty_cell(table):
    table.log_metrics({"val/loss": 3.0, "epoch": 0}, 1)
    table.log_metrics({"val/loss": 2.0, "epoch": 0}, 2)
    table.log_metrics({"train/loss": 1.0, "epoch": 1}, 3)
    table.save()
    assert [row["val/loss"] for row in read(table)] == ["2", ""]
    assert table.rows[1] == {"epoch": 1, "step": 3, "train/loss": 1.0}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.0010000000474974513, "0.001"),  # 0.001 as float32
        (0.1234567890123, "0.1234567890123"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (1e30, "1e+30"),
    ],
)
def test_numbers_have_as_many_digits_as_they_need(table, value, cell):
    table.log_metrics({"x": value, "epoch": 0})
    table.save()
    assert read(table)[0]["x"] == cell
    assert float(cell) == pytest.approx(value, rel=1e-7, nan_ok=True)


def test_what_is_no_number_is_left_out(table):
    table.log_metrics({"x": 1.0, "text": "a", "several": {"a": 1}, "epoch": 0})
    assert table.rows == [{"epoch": 0, "x": 1.0}]


def test_after_the_fit_nothing_is_taken(table):
    log_epoch(table, 0, 1.0)
    table.finalize("success")
    table.log_metrics({"test/loss": 1.0, "epoch": 1}, 9)
    table.finalize("success")
    assert len(read(table)) == 1


@pytest.mark.parametrize("place", ["checkpoints/last.ckpt", "last.ckpt"])
@pytest.mark.parametrize(("first", "expected"), [(2, [0, 1, 2]), (1, [0, 1]), (0, [0])])
def test_a_resumed_run_has_the_epochs_before_it(table, tmp_path, place, first, expected):
    """And not those that it repeats, also if it goes on in the same folder."""
    log_epoch(table, 0, 1.0)
    log_epoch(table, 1, 0.5)
    checkpoint = table.path.parent / place
    for path in (tmp_path / "next" / "metrics.csv", table.path):
        resumed = EpochTable(path)
        resumed.resume_from(checkpoint)
        assert not resumed.has_logged
        log_epoch(resumed, first, 9.0)
        assert [row["epoch"] for row in resumed.rows] == expected
        assert [row["val/loss"] for row in resumed.rows] == [*[1.0, 0.5][:first], 9.0]
        assert read_rows(path) == resumed.rows


def test_without_a_table_of_the_earlier_run_a_resumed_one_begins_with_its_own(table, tmp_path):
    table.resume_from(tmp_path / "elsewhere" / "last.ckpt")
    log_epoch(table, 7, 1.0)
    assert [row["epoch"] for row in table.rows] == [7]


def test_the_table_of_lightnings_csv_logger_is_read_too(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,2,,1.5\n0,2,2.5,\n1,5,,0.5\n,7,1.0,\n1,")
    assert read_rows(path) == [
        {"epoch": 0, "step": 2, "train/loss": 2.5, "val/loss": 1.5},
        {"epoch": 1, "step": 5, "val/loss": 0.5},
    ]
