"""Work for the worker that leaves a trace: how often each job was done."""
import time

import redis
from django.http import JsonResponse

from .celery import app


@app.task(acks_late=True)
def work(name):
    time.sleep(0.3)
    redis.Redis.from_url(app.conf.broker_url).hincrby("done", name, 1)


def jobs(request):
    """POST hands in one job; GET tells how often each was done."""
    if request.method == "POST":
        name = request.POST["name"][:100]
        work.delay(name)
        return JsonResponse({"name": name}, status=202)
    done = redis.Redis.from_url(app.conf.broker_url).hgetall("done")
    return JsonResponse({name.decode(): int(count) for name, count in done.items()})
