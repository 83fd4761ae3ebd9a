"""What a user touches: the command line, the Python API, the pytest plugin, the display."""
