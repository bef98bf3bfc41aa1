"""The question `scaling_laws.mup` and its parts; `question.py` is what runs."""
