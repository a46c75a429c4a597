import importlib.util
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sharedmlp.benchmark import (
    VARIANTS,
    format_results,
    format_small,
    format_summary,
    measure_small,
    peers,
    run,
    run_benchmark,
    write_results,
)
from sharedmlp.benchmark.counts import fused_training, plain_forward
from sharedmlp.benchmark.field import FieldDGCNN, FieldPointNet, FieldPointNet2
from sharedmlp.benchmark.processes import ALLOCATORS, Process, ProcessError, start_worker
from sharedmlp.benchmark.report import add_statistics, speedup, spread
from sharedmlp.benchmark.table import (
    REFERENCE,
    REFERENCES,
    choose_variants,
    load_variants,
)
from sharedmlp.benchmark.worker import prepare
from sharedmlp.cli import benchmark as command
from sharedmlp.models import create_model
from sharedmlp.viz import plot_benchmark, plot_growth

PEERS_FILE = Path(peers.__file__)
EVERYTHING = load_variants(PEERS_FILE)
OWN_VARIANTS = """
from sharedmlp.benchmark import peers
from sharedmlp.benchmark.field.pointnet import FieldPointNet
from sharedmlp.benchmark.variants import Variant, network_builder

VARIANTS = {
    **peers.VARIANTS,
    "mine": Variant("my own", "plain", network_builder(FieldPointNet, channels_first=True))
}
"""
SIZES = {"batch_size": 2, "num_points": 16, "num_classes": 40}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A whole run of the smallest size, with a variant that another file defines."""
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(OWN_VARIANTS)
    return run_benchmark(
        num_points=[16],
        batch_size=2,
        threads=1,
        rounds=1,
        steps=1,
        variants=["mine", "pyg"],
        variants_from=path,
    )


def made_up(allocators=("default",)):
    """Three rounds, in whole seconds, of which every ratio can be taken by hand."""
    seconds = {
        REFERENCE: ([8, 6, 12], [4, 4, 4], 1000),
        "linear": ([4, 6, 6], [2, 4, 4], 900),
        "linear_compiled": ([4, 3, 4], [1, 1, 2], 800),
        "conv2d_compiled": ([5, 5, 5], [1, 1, 1], 800),
        "linear_fused": ([2, 1, 2], [1, 2, 1], 250),
    }
    entries = {name: run._entry(EVERYTHING[name], SIZES) for name in [*seconds, "pyg", "conv1d"]}
    for name, (train, evaluation, peak) in seconds.items():
        entries[name]["train"]["seconds"] = train
        entries[name]["eval"]["seconds"] = evaluation
        entries[name]["peak_bytes"] = peak * 2**20
    entries["pyg"].update(status="not installed", reason="No module named 'torch_geometric'")
    entries["conv1d"].update(status="failed", reason="out of memory")
    entries[REFERENCE]["train"]["multiply_adds"] = 2_000_000_000
    size = {
        "num_points": 16,
        "batch_size": 2,
        "allocator": "default",
        "ceiling": {"seconds": [2.0, 2.0, 4.0], "operations": 4 * 10**9},
        "variants": entries,
    }
    add_statistics(size)
    machine = {
        "cpu": "a processor",
        "cores": 2,
        "memory_gib": 8.0,
        "gpu": None,
        "python": "3.11",
        "torch": "2.13",
        "blas": "mkl",
        "cpu_capability": "AVX2",
        "load_average": [0.5, 0.25, 0.125],
    }
    settings = {"rounds": 3, "steps": 1, "threads": 1, "device": "cpu", "contended": False, **SIZES}
    settings["network"] = "pointnet"
    settings["allocators"] = list(allocators)
    sizes = [{**size, "allocator": allocator} for allocator in allocators]
    return {"settings": settings, "machine": machine, "sizes": sizes}


def test_a_ratio_follows_from_the_times_beside_it():
    ratio = speedup([10, 60, 9], [2, 20, 3])
    assert ratio["median"] == 10 / 3  # of the medians, which are printed
    assert ratio["low"] == pytest.approx(3.0)  # within the rounds: 5, 3, 3
    assert ratio["high"] == pytest.approx(4.6)
    assert spread([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) == {"median": 6, "low": 2, "high": 10}


def test_statistics_by_hand():
    size = made_up()["sizes"][0]
    entries = size["variants"]
    fused = entries["linear_fused"]
    assert fused["train"]["median"] == 2
    assert fused["train"]["speedup"]["median"] == 4  # 8 by 2; within the rounds 4, 6, 6
    assert fused["train"]["speedup"]["high"] == 6
    assert fused["eval"]["speedup"]["median"] == 4
    assert fused["peak_ratio"] == 0.25
    assert size["ceiling"]["gflops"] == 2
    assert entries[REFERENCE]["train"]["fraction_of_ceiling"] == pytest.approx(4 / 8 / 2)
    against = {
        (item["mode"], item["reference"]): item["speedup"]["median"]
        for item in size["fused_against"]
    }
    # the best compiled one is another in training (median 4 of 4 and 5) than in eval (1 of 1 and 1)
    assert against == {
        ("train", "linear"): 3,  # 6 by 2
        ("train", "linear_compiled"): 2,  # 4 by 2
        ("eval", "linear"): 4,
        ("eval", "linear_compiled"): 1,
    }


def test_the_table_has_a_row_a_variant_and_says_what_is_missing():
    text = format_results(made_up())
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert {row.count("|") for row in rows.values()} == {10}
    cells = rows["fused linear"].split(" | ")
    assert cells[1:] == [
        *("2000.0 (1200.0 to 2000.0)", "4.00 (4.40 to 6.00)", cells[3]),
        *("1000.0 (1000.0 to 1800.0)", "4.00 (2.40 to 4.00)", cells[6]),
        *("250", "0.25 |"),
    ]
    assert "not installed" in rows[EVERYTHING["pyg"].label]
    assert "failed" in rows["plain conv1d"]
    assert "- N=16, default allocator, plain conv1d: failed (out of memory)." in text
    assert "training: fused linear is 3.00 times as fast as plain linear" in text
    assert "Adam(fused=True), for every network" in text
    assert "a processor, 2 cores" in text
    assert "busy" not in text


def test_both_allocators_stand_side_by_side():
    results = made_up(("default", "keep"))
    text = format_results(results)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} == {18}
    assert "training ms, memory kept" in text
    assert "MALLOC_TRIM_THRESHOLD_=" in text
    summary = format_summary(results, [REFERENCE, "linear_fused"]).splitlines()
    assert summary[3] == (
        "| fused linear | 2000 ms | 4.0x | 1000 ms | 4.0x | 2000 ms | 4.0x | 1000 ms | 4.0x "
        "| 250 MiB | 0.25 |"
    )
    assert {line.count("|") for line in summary} == {12}


def test_a_kept_allocator_is_the_process_own():
    code = "import os, json; print(json.dumps({'error': os.environ['MALLOC_TOP_PAD_']}))"
    with pytest.raises(ProcessError, match=ALLOCATORS["keep"]["MALLOC_TOP_PAD_"]):
        _process_of(code, ALLOCATORS["keep"])


def _process_of(code, environment):
    """A process that runs code of its own in place of a worker's module."""
    folder = Path(tempfile.mkdtemp())
    (folder / "echo_environment.py").write_text(code)
    return Process(["-m", "echo_environment"], 1, {**environment, "PYTHONPATH": str(folder)})


def test_small_layers_in_turns():
    results = measure_small(threads=[1], batch_sizes=[2], num_points=[16], seconds=0.0)
    assert results == json.loads(json.dumps(results))
    assert torch.get_num_threads() >= 1
    rows = results["rows"]
    assert [(row["stack"], row["mode"]) for row in rows[:2]] == [
        ("PointNet", "train"),
        ("PointNet", "eval"),
    ]
    assert len(rows) == 8
    text = format_small(results)
    assert "The default at its worst: " in text
    assert text.count("\n| ") == 2 + 8


def test_a_run_measures_what_is_installed(measured):
    results = measured
    assert results == json.loads(json.dumps(results))
    (size,) = results["sizes"]
    assert list(size["variants"]) == [REFERENCE, "pyg", "mine"]
    for name in (REFERENCE, "mine"):
        entry = size["variants"][name]
        assert entry["status"] == "measured"
        assert entry["peak_bytes"] > 2**20
        for mode in ("train", "eval"):
            assert len(entry[mode]["seconds"]) == 1
            assert entry[mode]["median"] > 0
            assert entry[mode]["fraction_of_ceiling"] > 0
    assert size["variants"][REFERENCE]["train"]["speedup"]["median"] == 1
    peer = size["variants"]["pyg"]
    installed = importlib.util.find_spec("torch_geometric") is not None
    assert peer["status"] == ("measured" if installed else "not installed")
    assert results["machine"]["cores"] >= 1


class FakeWorker:
    """Answers at once, and notes what it was asked and whether the machine was disturbed then."""

    def __init__(self, disturbers, asked):
        self.disturbers, self.asked = disturbers, asked

    def ask(self, mode, steps):
        self.asked.add((mode, any(process.running for process in self.disturbers)))
        return {"seconds": [1.0] * steps, "peak_bytes": 1}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("contended", [True, False])
def test_contended_means_a_busy_process_for_as_long_as_it_runs(contended, monkeypatch):
    disturbers: list[Any] = []
    asked: set[Any] = set()
    from sharedmlp.benchmark.contention import start_contention

    def start():
        disturbers.append(start_contention(1))
        return disturbers[-1]

    monkeypatch.setattr(run, "start_worker", lambda settings: FakeWorker(disturbers, asked))
    text = format_results(run_benchmark(rounds=2, contention=start if contended else None))
    assert asked == {("ceiling", False), ("train", contended), ("eval", contended)}
    assert [process.running for process in disturbers] == [False] * contended
    assert ("cores busy with matrix products" in text) == contended


def test_files_are_whole_and_complete(measured, tmp_path):
    results = measured
    data, table = write_results(results, tmp_path / "new")
    assert json.loads(data.read_text()) == results
    assert table.read_text() == format_results(results)
    assert {path.name for path in data.parent.iterdir()} == {data.name, table.name}


def test_variants_are_chosen_with_the_reference():
    assert choose_variants(["linear"], VARIANTS, "float32") == [REFERENCE, "linear"]
    of_pointnet = [name for name in EVERYTHING if EVERYTHING[name].network == "pointnet"]
    assert choose_variants(None, EVERYTHING, "bfloat16") == of_pointnet
    defaults = choose_variants(None, VARIANTS, "float32")
    assert set(of_pointnet) & set(VARIANTS) - set(defaults) == {"linear_fused_bfloat16"}


def test_the_peers_are_variants_of_a_file():
    assert load_variants(None) == VARIANTS
    assert list(EVERYTHING) == [
        *VARIANTS,
        *("pyg", "torch_pointcloud", "pypi_pointnet", "pyg_dgcnn"),
        *(f"torch_pointcloud_{name}" for name in ("dgcnn", "pointnet2_ssg", "pointnet2_msg")),
    ]
    assert {EVERYTHING[name].kind for name in set(EVERYTHING) - set(VARIANTS)} == {"peer"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.py", None, "come from a Python file, got .*no.py"),
        ("a.txt", "VARIANTS = {}", "come from a Python file, got .*a.txt"),
        ("a.py", "variants = {}", "a.py does not define VARIANTS"),
    ],
)
def test_a_file_without_variants_is_refused(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        run_benchmark(variants_from=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": ["lineal"]}, "unknown variant 'lineal': choose among field_conv1d, linear,"),
        ({"network": "pointnet3"}, "dgcnn, pointnet2_ssg, pointnet2_msg, got 'pointnet3'"),
        ({"num_neighbors": [20]}, "for dgcnn alone, got"),
        ({"network": "dgcnn", "variants": ["linear"]}, "choose among dgcnn_field,"),
        ({"search_precision": "float16"}, "got 'float16'"),
        ({"batch_size": 1}, "batch_size >= 2, got 1"),
        ({"rounds": 0}, "rounds >= 1, got 0"),
        ({"num_points": []}, "num_points"),
        ({"device": "tpu"}, "got 'tpu'"),
        ({"allocators": ["jemalloc"]}, "default, keep"),
        ({"allocators": []}, "default, keep"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(options, message, monkeypatch):
    monkeypatch.setattr(run, "start_worker", None)
    with pytest.raises(ValueError, match=message):
        run_benchmark(**options)


def test_a_process_that_ends_says_how():
    with pytest.raises(ProcessError, match="exit status 1"):
        Process(["-m", "no_such_module"], 1)


def test_a_network_that_does_not_fit_is_an_error_of_its_own():
    settings = {**SIZES, "num_points": 10**12, "threads": 1, "device": "cpu"}
    with pytest.raises(ProcessError, match="memory"):
        start_worker({**settings, "variant": REFERENCE})


def test_the_field_network_is_the_same_network():
    """With the same weights it computes what this library's plain conv1d network computes."""
    field: Any = FieldPointNet(5).double()
    own: Any = create_model("pointnet", 5, backend="conv1d", fused=False, dropout=0.0).double()
    field.dropout.p = 0.0
    kinds: tuple[Any, ...] = ((nn.Conv1d, nn.Linear), nn.BatchNorm1d)
    for kind in kinds:
        pairs: Any = zip(
            (m for m in field.modules() if isinstance(m, kind)),
            (m for m in own.modules() if isinstance(m, kind)),
            strict=True,
        )
        for theirs, ours in pairs:
            torch.nn.init.normal_(theirs.weight, std=0.3)
            torch.nn.init.normal_(theirs.bias)
            with torch.no_grad():
                ours.weight.copy_(theirs.weight.view(ours.weight.shape))
                if ours.bias is None:
                    theirs.bias.zero_()
                else:
                    ours.bias.copy_(theirs.bias)
    with torch.no_grad():  # the one adds the identity, the other has it in its bias
        for tnet in (field.input_tnet, field.feature_tnet):
            tnet.out.bias -= torch.eye(tnet.channels).flatten()
    points = torch.randn(4, 7, 3, dtype=torch.float64)
    expected = own.forward_detailed(points)
    logits, transform = field(points.transpose(1, 2))
    torch.testing.assert_close(logits, expected.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(transform, expected.feature_transform, rtol=1e-9, atol=1e-9)


def test_multiply_adds_are_those_that_torch_counts():
    with FlopCounterMode(display=False) as counter:
        FieldPointNet(40)(torch.randn(2, 3, 16))
    assert 2 * plain_forward(2, 16, 40) == counter.get_total_flops()
    saved = 3 * plain_forward(2, 16, 40) - fused_training(2, 16, 40)
    # three layers: (3 MCD - MCD - 2 MC^2 - 2 BCD - 2 DC^2) with M=32, C=128, D=1024, B=2
    assert saved == 3 * (
        2 * 32 * 128 * 1024 - 2 * 32 * 128**2 - 2 * 2 * 128 * 1024 - 2 * 1024 * 128**2
    )


def test_the_picture_shows_every_measured_variant():
    figure = plot_benchmark(made_up())
    train: Any
    memory: Any
    train, evaluation, memory = figure.axes
    names = [label.get_text() for label in train.get_yticklabels()]
    assert names[0] == VARIANTS[REFERENCE].label
    assert "fused linear" in names
    assert EVERYTHING["pyg"].label not in names
    assert [bar.get_width() for bar in train.patches] == [8e3, 6e3, 4e3, 5e3, 2e3]
    assert [text.get_text().strip() for text in evaluation.texts][-1] == "4.00x"
    assert [bar.get_width() for bar in memory.patches] == [1000, 900, 800, 800, 250]
    assert [text.get_text().strip() for text in memory.texts][-1] == "0.25"
    fused, plain = train.patches[4], train.patches[1]
    assert fused.get_facecolor() != plain.get_facecolor()
    assert train.get_yticklabels()[4].get_fontweight() == "bold"
    assert train.get_yticklabels()[1].get_fontweight() == "normal"


def test_the_command_prints_the_table_and_writes_three_files(monkeypatch, tmp_path, capsys):
    asked = {}

    def fake(**options):
        asked.update(options)
        return made_up()

    monkeypatch.setattr(command, "run_benchmark", fake)
    arguments = ["--num_points", "8", "16", "--contended", "--allocator", "default", "keep"]
    command.run([*arguments, "--output", str(tmp_path)])
    assert asked["allocators"] == ["default", "keep"]
    assert asked["num_points"] == [8, 16]
    assert callable(asked["contention"])
    assert asked["variants"] is None
    assert "variants_from" not in asked
    assert format_results(made_up()) in capsys.readouterr().out
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"benchmark.json", "benchmark.md", "benchmark.png"}
    assert imread(tmp_path / "benchmark.png").ndim == 3


@pytest.mark.parametrize(
    ("arguments", "variants"),
    [
        ("--peers", None),  # the defaults and all of the file
        ("--variants linear --peers", ["linear", "pyg", "torch_pointcloud", "pypi_pointnet"]),
        ("--variants pyg", ["pyg"]),
    ],
)
def test_the_command_knows_the_peers(arguments, variants, monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        command, "run_benchmark", lambda **options: asked.update(options) or made_up()
    )
    command.run([*arguments.split(), "--output", str(tmp_path)])
    assert asked["variants"] == variants
    assert Path(asked["variants_from"]) == PEERS_FILE
    assert asked["contention"] is None


def test_the_command_measures_small_layers(monkeypatch, tmp_path, capsys):
    small = measure_small(threads=[1], batch_sizes=[1], num_points=[16], seconds=0.0)
    monkeypatch.setattr(command, "measure_small", lambda: small)
    command.run(["--small", "--output", str(tmp_path / "new")])
    assert format_small(small) in capsys.readouterr().out
    assert (tmp_path / "new" / "small.md").read_text() == format_small(small)


def test_the_command_says_what_is_wrong(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.run(["--variants", "lineal"])
    assert "unknown variant 'lineal'" in capsys.readouterr().err


def copy_by_order(source, target, *kinds):
    """Give a network the weights and running statistics of another with the same layers."""
    for kind in kinds:
        pairs: Any = zip(
            (m for m in source.modules() if isinstance(m, kind)),
            (m for m in target.modules() if isinstance(m, kind)),
            strict=True,
        )
        for theirs, ours in pairs:
            torch.nn.init.normal_(theirs.weight, std=0.3)
            with torch.no_grad():
                ours.weight.copy_(theirs.weight.view(ours.weight.shape))
                for own, other in ((ours, theirs), (theirs, ours)):
                    if own.bias is not None:  # one of them has a bias where the other has none
                        own.bias.zero_()
                        if isinstance(own, nn.BatchNorm1d) or other.bias is not None:
                            own.bias.fill_(0.25)


SMALL_LEVELS = [(16, [(0.4, 4, (8, 8)), (0.8, 8, (8, 12))])]
SMALL = {
    "num_centers": 16,
    "radius": [0.4, 0.8],
    "num_neighbors": [4, 8],
    "channels": [[8, 8], [8, 12]],
}


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("dgcnn", FieldDGCNN, {}),
        ("pointnet2_msg", partial(FieldPointNet2, levels=SMALL_LEVELS), {"levels": [SMALL]}),
    ],
)
def test_the_field_networks_that_find_neighbors_are_the_same_networks(name, make, options):
    field: Any = make(5).double()
    own: Any = create_model(name, 5, backend="conv2d", fused=False, dropout=0.0, **options).double()
    field.dropout.p = 0.0
    copy_by_order(field, own, (nn.Conv1d, nn.Conv2d, nn.Linear), (nn.BatchNorm1d, nn.BatchNorm2d))
    points = torch.randn(3, 24, 3, dtype=torch.float64)
    torch.testing.assert_close(field(points.transpose(1, 2)), own(points), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["dgcnn", "pointnet2_ssg", "pointnet2_msg"])
def test_they_have_the_widths_of_the_networks_that_they_are_compared_with(name):
    points, shapes = torch.randn(2, 24, 3), []
    for variant in (f"{name}_field", f"{name}_conv2d"):
        module = VARIANTS[variant].build(points, 5).module
        weights = [p for p in module.parameters() if p.ndim > 1]
        shapes.append([tuple(p.shape[:2]) for p in weights])
    assert shapes[0] == shapes[1]


def test_variants_of_another_network_run_at_several_numbers_of_neighbors(monkeypatch):
    asked = []

    def start(settings):
        asked.append((settings["variant"], settings.get("num_neighbors")))
        return FakeWorker([], set())

    monkeypatch.setattr(run, "start_worker", start)
    results = run_benchmark(
        network="dgcnn", num_points=[24], num_neighbors=[3, 6], variants=["dgcnn_linear_fused"]
    )
    names = ["ceiling", "dgcnn_field", "dgcnn_linear_fused"]
    assert asked == [(name, k) for k in (3, 6) for name in names]
    assert [size["num_neighbors"] for size in results["sizes"]] == [3, 6]
    assert "fraction_of_ceiling" not in results["sizes"][0]["variants"]["dgcnn_field"]["train"]
    text = format_results(results)
    assert "### B=32, N=24, k=3, 40 classes" in text
    assert "the time of gather, concatenate, Conv2d, as the field writes it by the row's" in text
    assert "orthogonality" not in text
    assert format_summary(results, ["dgcnn_field"]).startswith("| DGCNN, B=32, N=24, k=3 |")
    figure: Any = plot_growth([results])
    train, _, memory = figure.axes
    assert train.get_xlabel() == "neighbors k"
    assert [line.get_xdata().tolist() for line in memory.lines] == [[3, 6], [3, 6]]
    labels = [text.get_text() for text in train.get_legend().get_texts()]
    assert labels == [EVERYTHING[name].label for name in names[1:]]


@pytest.mark.parametrize("variant", ["dgcnn_field", "dgcnn_linear_fused"])
def test_a_variant_takes_a_number_of_neighbors(variant):
    steps = prepare(VARIANTS[variant], 2, 24, 5, "cpu", num_neighbors=6)
    steps["train"]()
    steps["eval"]()


def test_every_network_has_its_reference_first():
    for network, reference in REFERENCES.items():
        chosen = choose_variants(None, EVERYTHING, network=network)
        assert chosen[0] == reference
        assert {EVERYTHING[name].network for name in chosen} == {network}
