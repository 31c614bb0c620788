"""What a run writes: its folder, record, metrics and checkpoints."""
