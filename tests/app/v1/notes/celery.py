import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notes.settings")
app = Celery("notes", broker=os.environ.get("REDIS_URL", "redis://localhost/0"))
app.conf.result_backend = os.environ.get("REDIS_URL", "redis://localhost/0")
app.conf.result_expires = 60
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {"tick": {"task": "notes.celery.echo", "schedule": 60.0, "args": ("tick",)}}


@app.task
def echo(value):
    return value
