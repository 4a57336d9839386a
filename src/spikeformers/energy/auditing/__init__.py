"""The arithmetic that a run really used: every operation with its operands, and a verdict."""
