"""Parts for NumPy that stay finite: `losses`, `ops`, `schedules`. Values only: NumPy has no gradients."""
