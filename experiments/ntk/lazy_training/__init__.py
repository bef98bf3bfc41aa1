"""The question `ntk.lazy_training` and its parts; `question.py` is what runs."""
