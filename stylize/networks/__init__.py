"""The AdaIN networks as published, their weights, in and out. Nothing about speed."""
