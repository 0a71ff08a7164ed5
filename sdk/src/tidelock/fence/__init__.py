"""Steps that take effect once, and what undoes or keeps them: what TCC and SAGA have in common.

A step is a function that is a branch of a global transaction. What a branch has come to is kept by
a fence in the resource's own database (`FencedDataSource`), or by the coordinator where there is
none.
"""
