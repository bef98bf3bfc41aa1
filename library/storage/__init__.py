"""Files that are whole or not there: single ones, folders with a seal, matrices in tiles.

    files           paths; JSON and bytes written whole, by the first process only
    orbax_noise     what Orbax logs when a save fails, kept off the screen
    sealed_folders  numbered folders; a seal tells whether a byte was changed later
    system_errors   a full disk or no memory, told from a file that is damaged
    tiled_matrix    a matrix larger than memory as tiles on disk, resumable

Importing this package imports none of them: the command line needs `files` alone, and no NumPy.
"""
