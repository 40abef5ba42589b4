import os
from queue import Empty

from celery import Celery
from kombu.transport.redis import Channel

close = Channel.close


def take_what_is_coming(channel):
    """Until kombu 5.3 a worker that ends forgets the job that Redis has just handed to it (celery/kombu, pull request 1733)."""
    if channel._in_poll:
        try:
            channel._brpop_read()
        except Empty:
            pass
    close(channel)


Channel.close = take_what_is_coming

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notes.settings")
app = Celery("notes", broker=os.environ.get("REDIS_URL", "redis://localhost/0"))
app.conf.result_backend = os.environ.get("REDIS_URL", "redis://localhost/0")
app.conf.result_expires = 60
app.conf.broker_connection_retry_on_startup = True
app.conf.beat_schedule = {"tick": {"task": "notes.celery.echo", "schedule": 60.0, "args": ("tick",)}}


@app.task
def echo(value):
    return value
