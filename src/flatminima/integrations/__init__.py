"""What frameworks need beyond `SharpnessAware` and `SharpnessAwareOptimizer`: very little."""
