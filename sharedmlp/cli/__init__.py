"""The command line: each command in one file, imported when it runs."""
