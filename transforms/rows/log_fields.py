"""What a row of a click log can say, and what it says where nothing is known."""

LOG_FIELDS = (
    "query",
    "image",
    "clicks",
    "impressions",
    "position",
    "session",
    "user",
    "timestamp",
    "language",
)

# What logs write for a user or a session that they do not know.
PLACEHOLDERS = (
    *("null", "(null)", "nil", "none", "(none)", "nan", "na", "n/a", "<na>", "\\n", "undefined"),
    *("-", "--", "?", "0", "0.0", "-1", "unknown", "anonymous", "anon", "guest", "nobody"),
    *("not set", "(not set)", "not logged in", "00000000-0000-0000-0000-000000000000"),
)
