"""Why did my loss become NaN? `whynan run train.py` answers with the operation, the line, the sample and the cause."""

__version__ = "0.1.0"
