"""Config files for `--config`: each says what differs from the default."""
