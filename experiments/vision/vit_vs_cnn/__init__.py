"""The question `vision.vit_vs_cnn` and its parts; `question.py` is what runs."""
