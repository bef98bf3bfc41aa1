"""The question `speed.sampling` and its parts; `question.py` is what runs."""
