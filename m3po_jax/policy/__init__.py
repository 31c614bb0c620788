"""The trust-region policy update and the exploration bonus."""
