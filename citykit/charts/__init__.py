"""A frame to Axes. Pure: knows nothing of databases."""
