"""TCC: functions that reserve (Try), with what keeps (Confirm) and what gives back (Cancel).

`@tcc_transaction` makes a function a Try; what a branch has come to is kept by a fence
(`tidelock.fence`) in the resource's own database (`TccDataSource`), or by the coordinator where
there is none.
"""
