"""The question `scaling_laws.sweep` and its parts; `question.py` is what runs."""
