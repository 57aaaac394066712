"""A study file: how it is read, which settings it has, and the cells of its grid."""
