"""SQL databases as the modes see them: one protocol over every driver, three dialects.

`session` is the protocol, `drivers` fulfil it; `identity` says which database a connection leads
to, `catalog` which tables it has; `values` and `columns` keep what is in them exactly;
`placeholders` and `statements` read what applications execute; `interception` is where a mode sees
an application's connection. Everything is written once, as coroutines (`tidelock.driving`).
"""
