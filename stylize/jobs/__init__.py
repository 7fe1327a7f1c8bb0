"""A job from data set to published folder: its specification, its shards, its output, and what executes it."""
