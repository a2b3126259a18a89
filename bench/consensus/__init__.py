"""What tournaments are worth and cost, on simulated members that the very rules of the daemon ask."""
