"""Claims as inequalities, and what the runs say of them."""
