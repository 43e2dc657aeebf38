"""Where units of work are done: in this process, in processes beside it, or on a Ray cluster; with the same
outcomes."""
