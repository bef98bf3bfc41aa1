"""Jacobians by parameters, kept in the structure of a network's layers, and their contraction.

`jaxprs` flattens a traced network, `views` and `rules` say how a layer's output depends on its
parameter, `structured` walks the whole, `pooled` and `winograd` are shorter ways for convolutions,
`contract` multiplies two such Jacobians, `cost` counts what a way would take.
"""
