"""The command line: flags, help texts, error lines and exit statuses."""
