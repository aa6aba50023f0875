"""The command line: one file per command group, and the border at which every error becomes an exit status.

| file | what it holds |
|---|---|
| `main.py` | the program: every command in its panel |
| `border.py` | errors into exit statuses, causes, hints and crash reports |
| `options.py` | the options that several commands share |
| `output.py` | results on standard output, as text or as JSON |
| others | one command or group of commands each |

A command file is read to print `--help`, so it imports nothing heavy at its top: torch, libp2p, numba and the rooms that
need them are imported inside the command.
"""
