"""The shard format: records, manifest, reader, writer, verifier. `train` and `attack` use it; no networks."""
