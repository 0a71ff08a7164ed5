"""The XA and JTA services: an application of the SDK that nodes host, in a process of its own.

`python -m services` is started by a node, which talks to it over its standard input and output
(`services.messages`). It takes part in global transactions as any application does: over HTTP, by
the SDK's transactions and its mode XA. It imports the SDK and nothing of the server.
"""
