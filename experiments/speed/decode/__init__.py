"""The question `speed.decode` and its parts; `question.py` is what runs."""
