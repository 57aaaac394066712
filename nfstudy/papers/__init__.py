"""Papers that are rebuilt here: their numbers, claims, tables and figures."""
