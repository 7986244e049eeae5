"""Draw figures: every module takes tensors or columns of numbers and returns a matplotlib Figure."""
