"""The question `score_sde.likelihood` and its parts; `question.py` is what runs."""
