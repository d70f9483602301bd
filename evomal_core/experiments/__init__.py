"""Runs as records: one cell, many cells, their tables and figures."""
