"""The first step, read by somebody who has seen many: one remark a file."""
