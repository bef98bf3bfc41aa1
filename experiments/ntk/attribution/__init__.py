"""The question `ntk.attribution` and its parts; `question.py` is what runs."""
