"""The trust-region policy update and the value-discrepancy bonus."""
