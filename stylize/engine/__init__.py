"""The networks run fast: devices, types, backends, and the styles they are given. Nothing about files of images."""
