"""`# whynan: ok REASON` at the end of a line, or on the line above it, accepts what a check finds there."""

import linecache
import re

_COMMENT = re.compile(r"#\s*whynan:\s*ok\b[\s:,-]*(.*)$", re.IGNORECASE)
NO_REASON = "no reason given"


def accepted_reason(file: str, line: int) -> str | None:
    """Return the reason that a comment gives for accepting findings of a line; None where there is no such comment."""
    for number in (line, line - 1):
        text = linecache.getline(file, number)
        found = _COMMENT.search(text)
        if found is not None and (number == line or text.lstrip().startswith("#")):
            return found.group(1).strip() or NO_REASON
    return None
