"""The Celery app under the name that the commands of a checkout use: ``celery -A workers.app``."""
