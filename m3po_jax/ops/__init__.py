"""Pure array maths: no state, no networks, nothing else of this package."""
