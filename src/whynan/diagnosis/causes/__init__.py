"""The causes, one file each. A file is found by being here; other packages add theirs as `whynan.causes`."""
