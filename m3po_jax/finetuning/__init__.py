"""Starting a run from what another one has learned."""
