"""The cost of the counted work: the papers' sum, and the full estimate with memory."""
