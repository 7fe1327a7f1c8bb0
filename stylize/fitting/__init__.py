"""Decoders and styles in training, and how well they do. Nothing that `stylize shards` needs while it runs."""
