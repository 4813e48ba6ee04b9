"""The routes of the studio: what each path of the table in app.py does."""
