"""Counts of a run: operands, matrix products, spikes and elementwise operations."""
