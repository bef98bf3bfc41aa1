"""The question `score_sde.predictor_corrector` and its parts; `question.py` is what runs."""
