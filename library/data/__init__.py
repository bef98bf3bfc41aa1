"""Data: real sets through TFDS builders, text, synthetic streams, batches as functions of a step.

    sets                     digits, mnist, cifar10: `source(split)` (random access) and
                             `arrays(split)` (in memory)
    text                     characters and bytes, vocabularies, windows of tokens
    shapes                   rendered scenes with captions, each a pure function of its index
    captions                 sentences for classes, a table of captions for a folder of images
    images                   a folder of images, or an .npz file
    synthetic                streams with a known entropy or exponent
    pipeline                 `batch_at(step)`: shuffled, repeated, sharded, prefetched
    padded_batches           evaluation batches of one shape, the last one padded, with a mask
    transforms               explicit conversions such as bytes to [-1, 1]
    sources                  where data sets are looked for and where prepared ones are kept
    builders                 makes a TFDS builder of an image set

Importing this package loads neither TFDS nor Grain, and nothing in it loads TensorFlow. A batch is
a dict of numpy arrays [B, ...]. Real files are looked for under the folder that `ANSATZ_DATA`
names; prepared sets are kept under `ANSATZ_CACHE`, else `~/.cache/ansatz`.
"""
