"""The question `ntk.tiled` and its parts; `question.py` is what runs."""
