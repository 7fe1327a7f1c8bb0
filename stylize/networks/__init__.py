"""The AdaIN networks, their weights, and the stylizer that runs them fast. Nothing about files of images."""
