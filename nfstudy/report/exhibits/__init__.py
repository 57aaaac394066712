"""Tables and figures that any study can have."""
