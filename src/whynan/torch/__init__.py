"""Parts for PyTorch that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`.

For every finite input the value and the gradient are finite, in float64, float32, bfloat16 and float16, at every size.
"""
