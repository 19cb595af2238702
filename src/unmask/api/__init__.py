"""The Python API: the functions of the command line's verbs, with its long options as keyword arguments."""
