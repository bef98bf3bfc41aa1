"""The question `ntk.uci` and its parts; `question.py` is what runs."""
