"""The agent: a process inside the enterprise that alone holds its rows, keys and ledger.

What the coordinator's code (a ClientApp, run as another user) can reach of it is one Unix socket
that knows four paths. The enterprise's own people have another one.
"""
