"""The shard format, and decoding pictures: all that `train` and `attack` need of `stylize`. No networks."""
