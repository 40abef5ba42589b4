import hashlib
import os
from urllib.parse import unquote, urlsplit

_settings = os.environ.get("NOTES_SETTINGS", "")
SECRET_KEY = hashlib.sha256(("notes" + _settings).encode()).hexdigest()
DEBUG = False
# The health check asks from inside the container.
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "").split() + ["127.0.0.1"]
CSRF_TRUSTED_ORIGINS = []
INSTALLED_APPS = ["notes"]
MIDDLEWARE = []
ROOT_URLCONF = "notes.urls"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

_database = urlsplit(os.environ.get("DATABASE_URL", "postgres://app@localhost/notes"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _database.hostname,
        "PORT": _database.port or 5432,
        "USER": _database.username,
        "PASSWORD": unquote(_database.password or ""),
        "NAME": unquote(_database.path.lstrip("/")),
        "CONN_MAX_AGE": 60,
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": os.environ.get("MEMCACHED_URL", "memcached://localhost:11211").split("//")[1],
    }
}
