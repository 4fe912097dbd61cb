"""A frame to typed rows or rejects, and those to the bytes of COPY. Pure: no I/O."""
