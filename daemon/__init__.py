"""The process: start-up, sockets, command line, systemd."""

__version__ = "0.1.0"
