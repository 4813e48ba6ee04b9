"""The studio: a page and two APIs over the library, served to this machine."""
