"""The process: waiting from a cell, a forgotten await, Jupyter's kernel, progress bars."""
