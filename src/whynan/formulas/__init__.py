"""One formula in one place: the mathematics of `whynan.torch`, `.keras`, `.jax`, `.mindspore` and `.numpy`.

Each function takes a `Backend`, a small set of array operations that every framework has, and arrays of that
framework. No framework is imported here. Three rules make value and gradient finite:

1. an argument is replaced by a harmless one *before* the function that breaks on it, and the result is chosen by the
same
   condition after it (a condition only after it leaves 0 * inf in the gradient);
2. float16 and bfloat16 are computed in float32, and stop at their own largest number;
3. a sum is scaled by a power of two where it would leave the numbers, which changes no digit.
"""
