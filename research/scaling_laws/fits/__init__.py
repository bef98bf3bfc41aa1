"""Fits of a law to runs: `fitting` is the room to import; `profiles`, `identifiability` judge.

`centring` brings a law into units in which one fixed grid of starts serves all, `lanes` runs many
fits at once, `newton_steps` is the compiled program of one stage.
"""
