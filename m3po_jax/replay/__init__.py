"""On-device experience replay."""
