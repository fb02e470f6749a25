"""The commands, a module each: read arguments, call, print. Each is imported when it is asked for."""
