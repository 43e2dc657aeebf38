"""Parts for NumPy that stay finite: `losses`, `ops`, `clip`, `schedules`. Values only: NumPy has no gradients."""
