"""Training methods: small functions from a batch to a loss, by family, and the table of their names."""
