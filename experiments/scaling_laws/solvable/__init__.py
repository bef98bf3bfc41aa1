"""The question `scaling_laws.solvable` and its parts; `question.py` is what runs."""
