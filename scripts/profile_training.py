"""Where the time of training goes: the data path against the step, and the step's operations.

The operations are counted in one thread: the fused layer's threads are invisible to the profiler.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from sharedmlp.models import create_model
from sharedmlp.train import ClassificationTask, HDF5DataModule

WARM_UP = 5


def profile_data_path(root: Path, steps: int) -> None:
    """Print the milliseconds of loader, augmentation and step, with modelnet10.yaml's settings."""
    data = HDF5DataModule(
        str(root), rotate=False, jitter=0.0, scale_low=0.8, scale_high=1.25, translate=0.1
    )
    data.setup("fit")
    task = ClassificationTask(data.class_names, model="pointnet_vanilla")
    # There is no trainer to log to.
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    spent: defaultdict[str, float] = defaultdict(float)
    loader = iter(data.train_dataloader())
    for number in range(WARM_UP + steps):
        times = [time.perf_counter()]
        batch = next(loader)
        times.append(time.perf_counter())
        batch["points"] = data.augmentation(batch["points"], generator)
        times.append(time.perf_counter())
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        times.append(time.perf_counter())
        if number >= WARM_UP:
            for i, name in enumerate(("loader", "augmentation", "step")):
                spent[name] += (times[i + 1] - times[i]) / steps * 1e3
    share = (spent["loader"] + spent["augmentation"]) / spent["step"]
    parts = ", ".join(f"{name} {ms:.1f} ms" for name, ms in spent.items())
    print(f"{parts}: the data path takes {share:.1%} of the step")


def profile_operations(*, fused: bool, steps: int) -> None:
    """Print what one training step of the whole PointNet spends its time on, B=32, N=1024."""
    torch.manual_seed(0)
    model = create_model("pointnet", 40, backend="linear" if fused else "conv1d", fused=fused)
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)
    points, labels = torch.randn(32, 1024, 3), torch.randint(40, (32,))

    def step() -> None:
        output = model.forward_detailed(points)
        loss = torch.nn.functional.cross_entropy(output.logits, labels)
        optimizer.zero_grad()
        penalty = model.extra_loss(output)
        assert penalty is not None
        loss = loss + 0.001 * penalty
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(steps):
            step()
    rows = sorted(
        profiler.key_averages(group_by_input_shape=True), key=lambda row: -row.self_cpu_time_total
    )
    total = sum(row.self_cpu_time_total for row in rows)
    print(
        f"{'fused linear' if fused else 'plain conv1d'}: {total / steps / 1e3:.0f} ms in one thread"
    )
    for row in rows[:12]:
        shapes = [shape for shape in row.input_shapes if shape][:3]
        share = row.self_cpu_time_total / total
        print(f"  {share:5.1%} {row.count // steps:4d} x {row.key:32} {shapes}")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="a folder in the HDF5 layout, for the data path")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    if options.root:
        profile_data_path(options.root, steps=12 * options.steps)
    torch.set_num_threads(1)
    for fused in (False, True):
        profile_operations(fused=fused, steps=options.steps)


if __name__ == "__main__":
    main()
