"""The question `speed.transformer` and its parts; `question.py` is what runs."""
