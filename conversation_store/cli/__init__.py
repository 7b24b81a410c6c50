"""The command line: ``conversation-store``. Needs the extra ``cli``; nothing else of the package imports it."""
