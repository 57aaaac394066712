"""From logged runs to a report: estimate, set out in tables, draw, write. Free of torch, mlflow and optuna."""
