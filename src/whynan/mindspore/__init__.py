"""Parts for MindSpore that stay finite: `losses`, `ops`, `layers`, `init`, `clip`, `schedules`.

For every finite input value and gradient are finite, in float64, float32, bfloat16 and float16, at every size that
MindSpore has kernels for.
"""
