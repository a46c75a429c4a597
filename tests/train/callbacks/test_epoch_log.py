import re

from sharedmlp.train import EpochLog
from tests.train.tiny import ArrayDataModule, make_task, make_trainer


def test_one_line_an_epoch(capsys):
    make_trainer(max_epochs=2, callbacks=[EpochLog()]).fit(make_task(), ArrayDataModule())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    pattern = (
        r"epoch  {}/2: train loss \d+\.\d{{3}} OA \d+\.\d%, "
        r"val loss \d+\.\d{{3}} OA \d+\.\d% mAcc \d+\.\d%, \d+ s"
    )
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(pattern.format(number), line)


def test_the_line_goes_without_validation(capsys):
    trainer = make_trainer(max_epochs=1, limit_val_batches=0, callbacks=[EpochLog()])
    trainer.fit(make_task(), ArrayDataModule())
    assert "val" not in capsys.readouterr().out
