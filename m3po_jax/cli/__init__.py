"""The commands: flags, messages and exit codes around the library, no algorithm."""
