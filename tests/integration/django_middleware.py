"""Middleware and a view for the tests of Django's integration."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.urls import path

GetResponse = Callable[[HttpRequest], HttpResponse]


def old(get_response: GetResponse) -> GetResponse:
    """Return middleware that knows no event loop."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    return middleware


def nothing(_request: HttpRequest) -> HttpResponse:
    """Do nothing."""
    return HttpResponse()


urlpatterns = [path("nothing", nothing)]
