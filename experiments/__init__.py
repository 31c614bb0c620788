"""What is run with the package: configs and, later, one script per table or figure."""
