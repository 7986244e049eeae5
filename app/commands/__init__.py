"""One module per command: the only place where the parts are put together."""
