"""Parts for Keras 3 that stay finite, on its TensorFlow, JAX and PyTorch backends: `losses`, `ops`, `layers`, `init`,
`clip`, `schedules`.

For every finite input value and gradient are finite, in float64, float32, bfloat16 and float16, at every size.
"""
