"""Attacks: functions from a model, images and labels to attacked images. No files, no statistics."""
