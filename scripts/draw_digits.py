"""Train a small LeNet on 8 x 8 digits, run it on a wide canvas and draw its class maps.

The network is trained on windows of 8 x 8 pixels and then convolutionalized: on the canvas it gives
one vector of logits for every such window, two pixels apart, in one pass.
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sharedmlp.convert import convolutionalize, receptive_windows

SIZE, PITCH, HEIGHT = 8, 12, 16
NOTHING = 10  # the eleventh class: no digit in the middle of this window
STORY = "3141592"


def make_lenet() -> nn.Sequential:
    """LeNet's plan (LeCun et al. 1998) for 8 x 8 pixels: convolutions, pooling, then a head."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 2 * 2, 96),
        nn.ReLU(),
        nn.Linear(96, 11),
    )


def load_splits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training and held-out digits `(M, 1, 8, 8)` in [0, 1] and their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    train, held_out = order[300:], order[:300]
    return images[train], labels[train], images[held_out], labels[held_out]


def make_canvas(images: Tensor, tops: list[int]) -> Tensor:
    """Write digits `(M, 1, 8, 8)` side by side: `(1, 1, 16, 12 M + 4)`, each at its top."""
    canvas = torch.zeros(1, 1, HEIGHT, PITCH * len(images) + PITCH - SIZE)
    for place, (image, top) in enumerate(zip(images, tops, strict=True)):
        left = PITCH * place + PITCH - SIZE
        canvas[0, 0, top : top + SIZE, left : left + SIZE] = image[0]
    return canvas


def distance_to_digits(tops: list[int], rows: Tensor, columns: Tensor) -> Tensor:
    """How far windows stand from the nearest digit's own window, in pixels (Chebyshev)."""
    lefts = PITCH * torch.arange(len(tops)) + PITCH - SIZE
    nearest = (columns[:, None] - lefts).abs().min(1)
    down = (rows - torch.tensor(tops)[nearest.indices]).abs()
    return torch.maximum(down, nearest.values)


def draw_windows(
    images: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return every digit in its own window and thrice as many windows that stand elsewhere.

    All are cut out of one long canvas, so that the second kind shows what lies between the digits
    of a canvas: nothing, a part of a digit, parts of two.
    """
    order = torch.randperm(len(images), generator=generator)
    images, labels = images[order], labels[order]
    tops = torch.randint(HEIGHT - SIZE + 1, (len(images),), generator=generator)
    windows = make_canvas(images, tops.tolist())[0, 0].unfold(0, SIZE, 1).unfold(1, SIZE, 1)
    count = 3 * len(images)
    rows = torch.randint(windows.shape[0], (count,), generator=generator)
    columns = torch.randint(windows.shape[1], (count,), generator=generator)
    away = distance_to_digits(tops.tolist(), rows, columns) >= 2
    elsewhere = windows[rows[away], columns[away]][:, None]
    nothing = torch.full((len(elsewhere),), NOTHING)
    return torch.cat([images, elsewhere]), torch.cat([labels, nothing])


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """Train with Adam; the step size falls to zero along a cosine."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    model.train()
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * epoch / epochs))
        inputs, targets = draw_windows(images, labels, generator)
        order = torch.randperm(len(targets), generator=generator)
        for batch in order.split(128):  # type: ignore[no-untyped-call]
            loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()


def run_on_canvas(
    model: nn.Module, canvas: Tensor, tops: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the convolutionalized model on a canvas in one pass.

    Returns:
        The logits `(11, H', W')`, the windows they see `(H', W', 4)`, and how far those stand
        from the nearest digit `(H', W')`.
    """
    network = convolutionalize(model, (1, SIZE, SIZE))
    with torch.no_grad():
        logits = network(canvas)[0]
        windows = receptive_windows(network, (1, canvas.shape[2], canvas.shape[3]))
        # What the page says: each output is the classifier's answer for its own window.
        cut = [canvas[:, :, a:c, b:d] for a, b, c, d in windows.flatten(0, 1).tolist()]
        torch.testing.assert_close(logits.flatten(1).T, model(torch.cat(cut)), rtol=1e-4, atol=1e-4)
    away = distance_to_digits(tops, windows[..., 0].flatten(), windows[..., 1].flatten())
    return logits, windows, away.view(logits.shape[1:])


def draw_canvas(ax: Axes, canvas: Tensor, logits: Tensor, windows: Tensor, away: Tensor) -> None:
    """Draw the canvas, each digit's own window and the class that the network sees there."""
    ax.imshow(canvas.numpy(), cmap="gray_r", aspect="auto")
    for i, j in (away == 0).nonzero().tolist():
        top, left, bottom, right = windows[i, j].tolist()
        size = (right - left, bottom - top)
        # imshow's pixel 0 reaches from -0.5 to 0.5.
        ax.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), *size, fill=False, ec="#d2691e", lw=1.5, clip_on=False
            )
        )
        answer = int(logits[:, i, j].argmax())
        said = "-" if answer == NOTHING else str(answer)
        ax.text(left - 1.8, top + 3.5, said, color="#2e7d32", fontsize=15, ha="center", va="center")


def draw(canvas: Tensor, logits: Tensor, windows: Tensor, away: Tensor, caption: str) -> Figure:
    """Draw the canvas `(H, W)` and below it, in the same columns, the map of every class."""
    figure = Figure(figsize=(9.5, 8), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    classes = [*range(NOTHING), NOTHING]
    top, *rows = figure.subplots(len(classes) + 1, 1, height_ratios=[3.6] + [1] * len(classes))
    draw_canvas(top, canvas, logits, windows, away)
    top.set_title(caption, fontsize=10)
    # Every output is drawn around the middle of its window, which puts it below its digit.
    left, right = (float(windows[0, j, 1] + windows[0, j, 3]) / 2 for j in (0, -1))
    half = (right - left) / (logits.shape[2] - 1) / 2
    for number, ax in zip(classes, rows, strict=True):
        extent = (left - half - 0.5, right + half - 0.5, logits.shape[1] - 0.5, -0.5)
        probabilities = logits.softmax(0)[number].numpy()
        ax.imshow(probabilities, cmap="Greens", vmin=0, vmax=1, aspect="auto", extent=extent)
        name = "nothing" if number == NOTHING else str(number)
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    figure.supylabel("map of class", fontsize=11)
    for ax in (top, *rows):
        ax.set(xticks=[], yticks=[], xlim=(-0.5, canvas.shape[1] - 0.5))
    return figure


def main() -> None:
    """Train, convolutionalize, check the map against the classifier, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/equivalences/digits.png"))
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = make_lenet()
    images, labels, held_out, held_out_labels = load_splits(options.seed)
    train(model, images, labels, epochs=options.epochs, seed=options.seed)
    with torch.no_grad():
        accuracy = (model(held_out).argmax(1) == held_out_labels).float().mean().item()
    print(f"held-out accuracy on {len(held_out)} single digits: {accuracy:.1%}")

    # Even places: the strides multiply to two, so only those digits have a window of their own.
    tops = [2 * (3 * place % 5) for place in range(len(held_out))]
    logits, _, away = run_on_canvas(model, make_canvas(held_out, tops), tops)
    wrong = (logits.argmax(0) != NOTHING)[away > 0]
    print(f"all of them on one canvas: {int(wrong.sum())} of the {len(wrong)} windows that hold no")
    print("digit in their middle are taken for one")

    # Not chosen by their looks: the first held-out three, the first one, ..., the second one, ...
    chosen = [
        int((held_out_labels == int(digit)).nonzero()[STORY[:place].count(digit)])
        for place, digit in enumerate(STORY)
    ]
    tops = tops[: len(chosen)]
    canvas = make_canvas(held_out[chosen], tops)
    logits, windows, away = run_on_canvas(model, canvas, tops)
    print(f"drawn: canvas {tuple(canvas.shape[2:])}, one pass, map {tuple(logits.shape)}")
    caption = (
        f"One pass over a {canvas.shape[2]} x {canvas.shape[3]} canvas gives {logits.shape[1]} x "
        f"{logits.shape[2]} answers. Trained on 8 x 8 windows; {accuracy:.1%} of "
        f"{len(held_out)} held-out digits right.\n"
        "Box: a digit's own window; number beside it: the answer for that window. "
        "Below: each class's map of probabilities."
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(canvas[0, 0], logits, windows, away, caption).savefig(options.output)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
