"""A mutation check: planted one-line errors that the tests must find."""
