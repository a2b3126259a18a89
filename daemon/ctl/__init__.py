"""daemonctl: the command line."""
