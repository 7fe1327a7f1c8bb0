"""What a training method is shown of a sample: the original, and what is to be its partner."""
