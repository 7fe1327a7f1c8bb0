"""Where pictures come from: folders, tars, built-in data sets and patterns. Nothing about what is done with them."""
