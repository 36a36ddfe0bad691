"""What a model's graph says, and what is added to it, before anything is compiled.

`rows` proves that rows stay apart, `numbers` that numbers stay in range, `preprocessing` builds the
steps that the settings ask for. With `openvino` the only package that imports openvino. May import
`policy` and `openvino`.
"""
