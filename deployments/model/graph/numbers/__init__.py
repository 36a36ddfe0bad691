"""Checks that a request's numbers stay within the range in which the device computes.

`steps` finds the operations that matter, `bounds` follows bounds through them, `exact` computes in
the types that the model declares, `check` answers or refuses.
"""
