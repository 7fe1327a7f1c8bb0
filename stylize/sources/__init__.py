"""Where pictures come from, and decoding them to RGB. Nothing about what is done with them."""
