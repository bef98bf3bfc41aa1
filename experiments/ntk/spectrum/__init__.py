"""The question `ntk.spectrum` and its parts; `question.py` is what runs."""
