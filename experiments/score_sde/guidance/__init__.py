"""The question `score_sde.guidance` and its parts; `question.py` is what runs."""
