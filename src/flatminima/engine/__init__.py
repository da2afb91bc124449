"""What carries out a rule on a batch: passes, precision, buffers, random state, and the weights
back where they were."""
