"""Pictures. Nothing else imports matplotlib, and no display is needed."""

from sharedmlp.viz.class_colors import UNLABELLED, class_colors
from sharedmlp.viz.clouds import plot_clouds
from sharedmlp.viz.critical import (
    CriticalPoints,
    CriticalSets,
    find_critical_points,
    find_critical_sets,
)
from sharedmlp.viz.learning_curves import plot_learning_curves
from sharedmlp.viz.network_screen import find_screen
from sharedmlp.viz.page import clouds_page, screens_page
from sharedmlp.viz.plots import (
    plot_benchmark,
    plot_confusion,
    plot_growth,
    plot_runs,
    read_picture,
    save_figure,
)
from sharedmlp.viz.screens import ColoredCloud, Coloring, Outline, Screen
from sharedmlp.viz.views import View, find_views

__all__ = [
    "UNLABELLED",
    "ColoredCloud",
    "Coloring",
    "CriticalPoints",
    "CriticalSets",
    "Outline",
    "Screen",
    "View",
    "class_colors",
    "clouds_page",
    "find_critical_points",
    "find_critical_sets",
    "find_screen",
    "find_views",
    "plot_benchmark",
    "plot_clouds",
    "plot_confusion",
    "plot_growth",
    "plot_learning_curves",
    "plot_runs",
    "read_picture",
    "save_figure",
    "screens_page",
]
