"""Pictures that the project draws itself: shapes and patterns. Pure functions of seed and size; no files."""
