"""A study's logged runs in one file, which can be imported into another store: its format, writer and reader."""
