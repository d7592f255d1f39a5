"""The classroom: hand out chapters, collect notebooks, give back grades and feedback. Files only."""
