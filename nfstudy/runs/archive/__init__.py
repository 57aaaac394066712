"""A study's logged runs in one file, which another store takes in: what it holds, how it is packed and unpacked."""
