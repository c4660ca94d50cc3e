"""Where runs go: the devices of this machine."""
