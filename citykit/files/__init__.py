"""CSV, JSON, Parquet and Arrow files to frames, and back."""
