"""Whether a request's numbers stay within what the device computes with.

`steps` finds the operations that matter, `bounds` follows limits through them, `exact` computes in
the types that the model declares, `check` answers or refuses.
"""
