"""The question `score_sde.orders` and its parts; `question.py` is what runs."""
