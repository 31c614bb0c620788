"""The release, which setup.py and the records of runs read."""

VERSION = "0.1.0"
