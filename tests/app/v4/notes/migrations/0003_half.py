"""Fails half way: the first operation is committed, the second raises."""
from django.db import migrations, models


def fail(apps, schema_editor):
    raise RuntimeError("this migration fails half way, as it is meant to")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("notes", "0002_pinned")]
    operations = [
        migrations.AddField("note", "half", models.IntegerField(default=0)),
        migrations.RunPython(fail),
    ]
