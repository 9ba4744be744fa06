"""The Celery rooms: the app and its tasks."""
