"""The `stylize` commands: options in, printed lines out. Nothing that Python could not call without them."""
