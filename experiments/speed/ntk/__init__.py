"""The question `speed.ntk` and its parts; `question.py` is what runs."""
