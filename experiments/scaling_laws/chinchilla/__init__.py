"""The question `scaling_laws.chinchilla` and its parts; `question.py` is what runs."""
