"""The question `score_sde.inpainting` and its parts; `question.py` is what runs."""
