"""The question `speed.train_step` and its parts; `question.py` is what runs."""
