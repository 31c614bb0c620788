"""Speed beside other implementations, each in an environment of its own, timed in turn."""
