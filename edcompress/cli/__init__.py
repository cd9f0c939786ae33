"""The command line: a skin over the functions of `edcompress`."""
