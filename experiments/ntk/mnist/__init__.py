"""The question `ntk.mnist` and its parts; `question.py` is what runs."""
