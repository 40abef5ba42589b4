from django.urls import path

from . import jobs, views

urlpatterns = [path("", views.index), path("notes", views.notes), path("health", views.health), path("jobs", jobs.jobs)]
