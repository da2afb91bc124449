"""What carries out a rule on a batch, and puts everything else back where it was."""
