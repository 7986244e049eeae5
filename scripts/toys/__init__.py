"""The own examples of two papers, by the method code of this program."""
