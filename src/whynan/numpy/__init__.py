"""Parts for NumPy that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`. Values, no gradients."""
