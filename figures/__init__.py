"""Figures as functions: tensors or columns of numbers in, a matplotlib Figure out."""
