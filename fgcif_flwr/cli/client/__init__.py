"""``fgcif-client``: the command of an enterprise."""
