"""A frame to Axes. Pure: knows nothing of databases."""

from citykit.charts.plots import plot_biggest, plot_countries, plot_map, plot_rank_size

__all__ = ["plot_biggest", "plot_countries", "plot_map", "plot_rank_size"]
