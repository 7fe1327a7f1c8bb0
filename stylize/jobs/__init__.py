"""A job from a data set to a published folder of shards: resumable, atomic, counted. No network arithmetic."""
