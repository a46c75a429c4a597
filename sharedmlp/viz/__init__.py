"""Pictures. Nothing else imports matplotlib, and no display is needed."""

from sharedmlp.viz.clouds import plot_clouds
from sharedmlp.viz.critical import CriticalSets, find_critical_sets
from sharedmlp.viz.page import clouds_page
from sharedmlp.viz.plots import (
    plot_benchmark,
    plot_confusion,
    plot_growth,
    plot_runs,
    save_figure,
)

__all__ = [
    "CriticalSets",
    "clouds_page",
    "find_critical_sets",
    "plot_benchmark",
    "plot_clouds",
    "plot_confusion",
    "plot_growth",
    "plot_runs",
    "save_figure",
]
