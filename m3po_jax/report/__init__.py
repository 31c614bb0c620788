"""The report: what runs wrote down as one HTML page with pictures and tables. Imports no JAX."""
