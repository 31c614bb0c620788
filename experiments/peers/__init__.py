"""Speed compared with other implementations, each in its own environment, timed in alternation."""
