"""Whether an evaluation can be believed: functions from a model or an attack’s outcome to passed or failed."""
