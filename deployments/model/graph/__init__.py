"""Analyses a model's graph and adds preprocessing to it, before anything is compiled.

`rows` proves that rows do not influence each other, `numbers` checks that numbers stay in range,
`preprocessing` builds the steps of the settings. Only this package and `openvino` import openvino.
May import `policy` and `openvino`.
"""
