"""The server's bytes to Arrow columns, and those to a frame. Pure: no I/O."""
