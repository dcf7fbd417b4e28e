"""Tests of the whole repository; a package of its own, because others install a `tests` too."""
