"""The question `score_sde.digits` and its parts; `question.py` is what runs."""
