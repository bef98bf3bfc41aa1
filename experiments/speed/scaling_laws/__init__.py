"""The question `speed.scaling_laws` and its parts; `question.py` is what runs."""
