"""The question `speed.sweep` and its parts; `question.py` is what runs."""
