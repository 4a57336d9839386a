"""What a run does: operands, products, spikes and elementwise operations, counted."""
