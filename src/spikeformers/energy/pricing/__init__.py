"""What the counted work costs: the papers' sum, and the full estimate with memory."""
