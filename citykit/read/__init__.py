"""A statement to frames."""
