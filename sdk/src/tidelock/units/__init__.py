"""Units: what one call of a function does for its global transaction, in TX-LCN's words.

`unit` is what a call has done and how that joins or is undone; `hooks` and `decorators` the
template around it; `source` a database whose mode the unit says.
"""
