import uuid

import redis
from django.core.cache import cache
from django.http import HttpResponse, JsonResponse
from django.utils.html import escape

from .celery import app, echo
from .models import Note

VERSION = "v2"


def index(request):
    rows = "".join(f"<li>{escape(note.text)}</li>" for note in Note.objects.order_by("id"))
    form = '<form method="post" action="/notes"><input name="text" aria-label="Note"><button>Keep</button></form>'
    return HttpResponse(f"<!doctype html><title>Notes</title><h1>My notes {VERSION}</h1>{form}<ul>{rows}</ul>")


def notes(request):
    if request.method == "POST":
        note = Note.objects.create(text=request.POST.get("text", "")[:1000])
        return JsonResponse({"id": note.id, "text": note.text}, status=201)
    return JsonResponse({"version": VERSION, "notes": list(Note.objects.order_by("id").values_list("text", flat=True))})


def health(request):
    """Database, redis, memcached, and a round trip through the worker."""
    token = uuid.uuid4().hex
    Note.objects.count()
    redis.Redis.from_url(app.conf.broker_url).ping()
    cache.set("health", token, 30)
    if cache.get("health") != token:
        return JsonResponse({"failed": "memcached"}, status=503)
    if echo.delay(token).get(timeout=10) != token:
        return JsonResponse({"failed": "worker"}, status=503)
    return JsonResponse({"version": VERSION, "healthy": True})
