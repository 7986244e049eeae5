"""What `scripts/benchmark` measures, and the other methods that it measures against."""
