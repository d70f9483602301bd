"""Runs as records: one cell, many cells, what is kept of them."""
