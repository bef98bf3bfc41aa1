"""The question `score_sde.toys` and its parts; `question.py` is what runs."""
