"""The earlier name of `library.storage.tiled_matrix`, which READMEs gave."""

from library.storage.tiled_matrix import *  # noqa: F403
